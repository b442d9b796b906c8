# docker build --target cpu  -t onnx-soda .
# docker build --target cuda -t onnx-soda:cuda .
# docker run --rm --network none -v "$PWD:/data:ro" onnx-soda scan model.onnx --data clean.h5
#
# Landlock works inside containers; where the host's kernel lacks it, the report says so.

FROM python:3.12-slim AS cpu
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
COPY pyproject.toml README.md LICENSE /src/
COPY onnx_soda /src/onnx_soda
COPY cli /src/cli
COPY converters /src/converters
COPY docs /src/docs
RUN pip install "/src[html]" && rm -r /src && useradd --create-home scanner
USER scanner
WORKDIR /data
ENTRYPOINT ["onnx-soda"]
CMD ["--help"]

# ONNX Runtime's CUDA kernels are in its wheel; the CUDA libraries come from the image.
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 AS cuda
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PATH=/opt/onnx-soda/bin:$PATH
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/onnx-soda
COPY pyproject.toml README.md LICENSE /src/
COPY onnx_soda /src/onnx_soda
COPY cli /src/cli
COPY converters /src/converters
COPY docs /src/docs
RUN pip install "/src[html]" && rm -r /src && useradd --create-home scanner
USER scanner
WORKDIR /data
ENTRYPOINT ["onnx-soda"]
CMD ["--help"]
