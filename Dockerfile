# docker build -t medi2i .                          for the CPU
# docker build -t medi2i --build-arg CUDA=cuda13 .  for a GPU, which is lent by: docker run --gpus all …
# docker run --rm -u $(id -u):$(id -g) -v "$PWD":/work medi2i demo
ARG BASE=debian:trixie-slim
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv
COPY . /opt/medi2i
WORKDIR /opt/medi2i
ARG CUDA=
RUN /opt/uv/bin/uv sync --locked --no-cache --no-editable --compile-bytecode ${CUDA:+--extra "$CUDA"}
# Matplotlib and CuPy keep what they make in the home of whoever runs the container.
ENV HOME=/tmp PATH=/opt/medi2i/.venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["medi2i"]
CMD ["--help"]
