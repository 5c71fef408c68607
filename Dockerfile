# One image for every service: `docker build -t hopstream .`, then `docker run hopstream serve requests`.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Where torch comes from, and nothing else does: its CPU build is a tenth of the one on PyPI. Empty means PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# The dependencies are a layer of their own, made again when pyproject.toml changes. Torch's headers and tests, 190 MB,
# do not run.
COPY pyproject.toml /src/
RUN python -c 'import tomllib; print(*tomllib.load(open("/src/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /src/requirements.txt \
 && pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep ^torch /src/requirements.txt)" \
 && pip install --requirement /src/requirements.txt \
 && cd "$(python -c 'import torch; print(torch.__path__[0])')" && rm -rf include test bin/*test* bin/protoc* /src

COPY . /src
RUN pip install --no-deps /src && rm -r /src

# What the engine compiles is kept here: now for the CPU at hand, at the first start for another.
ENV NUMBA_CACHE_DIR=/var/cache/hopstream
RUN mkdir "$NUMBA_CACHE_DIR" \
 && python -c 'from engine.metric import InnerProduct; from engine.warm_up import warm_up; warm_up(InnerProduct(64))' \
 && chown -R 10001:10001 "$NUMBA_CACHE_DIR"

USER 10001:10001
ENTRYPOINT ["hopstream"]
