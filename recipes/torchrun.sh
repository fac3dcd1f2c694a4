#!/usr/bin/env bash
# One training run on several machines, by hand: start this on each of them, all within a few minutes.
#
#   HEAD=node-0 NODES=2 bash recipes/torchrun.sh --out /shared/runs/wide --corpus valley --shard
#
# Every machine needs the package, and the folder of --out under the same name: a disk that they share. What follows the
# script's name goes to `llama-minimal train`. Ctrl-C on one machine stops all after the step, with a snapshot; the same
# command with --resume goes on, on as many machines as you have then.
set -euo pipefail
: "${HEAD:?say which machine all others can reach, such as HEAD=node-0}"

exec torchrun \
  --nnodes "${NODES:-2}" \
  --nproc-per-node "${PROCESSES:-auto}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD:${PORT:-29400}" \
  --rdzv-id "${RUN:-llama}" \
  -m llama_minimal train "$@"
# PROCESSES: of each machine; auto is one for each GPU, or without any one for each core.
# RUN: a name that tells two runs on the same machines apart.
