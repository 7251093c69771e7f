#!/bin/bash
# Server on one node, LAMMPS on another, over tcp:   sbatch two-nodes.sh [WORDS FOR LAMMPS]
#SBATCH --job-name=forcenet-md
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
# the server, and this script with it
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --partition=gpu
#SBATCH --gres=gpu:1
#SBATCH hetjob
# LAMMPS
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --partition=main
set -euo pipefail

source "${FORCENET_MD_ENV:-../../.venv}/bin/activate"    # where forcenet-md is installed
model=${MODEL:-alloy}
device=${DEVICE:-cuda:0}
lmp=${LMP:-lmp}
mpi=${MPI:-pmi2}    # what the MPI of lmp speaks (srun --mpi=list)
export OMP_NUM_THREADS=1

# However this script ends, nothing is left behind.
children=()
secret=$PWD/.secret-$SLURM_JOB_ID    # where both nodes see it, and nobody else
finish() {
  kill "${children[@]}" 2> /dev/null || true
  wait
  rm -f "$secret"
}
trap finish EXIT
trap 'exit 143' TERM

(umask 077 && head -c 32 /dev/urandom | base64 > "$secret")

# Port 0 lets the system choose a free one: jobs that share a node do not meet.
log=server-$SLURM_JOB_ID.log
forcenet-md serve --model "$model" --device "$device" \
  --listen "tcp:0.0.0.0:${PORT:-0}" --secret-file "$secret" > "$log" 2>&1 &
server=$!
children+=("$server")
until grep -qs '^ready' "$log"; do
  kill -0 "$server" 2> /dev/null || { cat "$log" >&2; exit 1; }
  sleep 1
done

port=$(sed -n 's/^listening on tcp:.*:\([0-9]*\).*/\1/p' "$log")
srun --het-group=1 --mpi="$mpi" "$lmp" -in alloy.in -var ranks "$SLURM_NTASKS_HET_GROUP_1" \
  -var address "tcp:$SLURMD_NODENAME:$port" -var options "secret $secret" "$@" &
children+=("$!")

# Whichever ends first decides: LAMMPS with its exit code, the server as a failure.
status=0
wait -n "${children[@]}" || status=$?
if ! kill -0 "$server" 2> /dev/null; then
  tail -n 5 "$log" >&2
  echo "the force server ended before LAMMPS did" >&2
  exit 1
fi
exit "$status"
