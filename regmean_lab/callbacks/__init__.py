"""Lightning callbacks: the merge stage, statistics, and the choice of the best epoch."""
