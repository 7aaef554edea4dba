# regmean_lab in a container, for processors:
#   docker build -t regmean-lab .
# and for NVIDIA GPUs:
#   docker build -t regmean-lab:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# Then, with members, data and results in the folder where you are:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" regmean-lab run members=[tweets,nyt] method=regmean
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" regmean-lab:cuda plan +multirun_sweeps=table2
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /regmean_lab
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY conf conf
COPY multirun_sweeps multirun_sweeps
COPY hydra_plugins hydra_plugins
COPY regmean_lab regmean_lab

# The exact versions that are tested; PyTorch first, from its own index, or pip takes the build for CUDA.
RUN python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)" \
    && python -m pip install --no-cache-dir --constraint constraints.txt ".[tensorboard,joblib,optuna,lora]" \
    && useradd --no-create-home --uid 1000 somebody \
    && install --directory --mode 777 /work

# Where pretrained models, logs and caches go, for whatever user it is run as.
ENV HOME=/work HF_HOME=/work/.cache/huggingface
USER 1000
WORKDIR /work
ENTRYPOINT ["regmean-lab"]
CMD ["--help"]
