"""What a sweep will do: its jobs, and the members and statistics that they share."""

from regmean_lab.planning.plan import Plan, PlannedJob, PlannedMember, PlannedStatistics, make_plan
from regmean_lab.planning.text import plan_text

__all__ = ["Plan", "PlannedJob", "PlannedMember", "PlannedStatistics", "make_plan", "plan_text"]
