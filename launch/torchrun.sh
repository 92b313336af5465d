#!/usr/bin/env bash
# Several nodes without SLURM: start this on each of them, with the same words.
#   NODES=2 PROCESSES=8 MASTER=node1:29500 launch/torchrun.sh +experiment=cgan +scale=gpu run_dir=/shared/runs/cgan
# NODES      number of machines
# PROCESSES  on each: one for each GPU
# MASTER     one of the machines, and a free port there; all must reach it
# run_dir    a folder that all machines share. Starting all again goes on from its newest checkpoint.
# If a process dies, torchrun ends those on its machine, the heartbeat those on the others.
set -euo pipefail

exec torchrun \
  --nnodes="${NODES:?number of machines}" \
  --nproc-per-node="${PROCESSES:?processes on each machine, one for each GPU}" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="${MASTER:?HOST:PORT of one of the machines}" \
  --rdzv-id="${RUN_ID:-trainer}" \
  -m trainer "$@"
