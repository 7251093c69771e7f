#!/bin/bash
# Server and LAMMPS on one node, over a unix socket:   sbatch one-node.sh [WORDS FOR LAMMPS]
#SBATCH --job-name=forcenet-md
#SBATCH --nodes=1
#SBATCH --ntasks=4                  # ranks of LAMMPS
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
# on a GPU add   #SBATCH --gres=gpu:1   and set DEVICE=cuda:0
set -euo pipefail

source "${FORCENET_MD_ENV:-../../.venv}/bin/activate"    # where forcenet-md is installed
model=${MODEL:-alloy}
device=${DEVICE:-cpu}
lmp=${LMP:-lmp}
mpi=${MPI:-pmi2}    # what the MPI of lmp speaks (srun --mpi=list)
export OMP_NUM_THREADS=1

# However this script ends, nothing is left behind.
children=()
private=$(mktemp -d /tmp/forcenet-md.XXXXXX)
finish() {
  kill "${children[@]}" 2> /dev/null || true
  wait
  rm -rf "$private"
}
trap finish EXIT
trap 'exit 143' TERM

address=unix:$private/server.sock
log=server-$SLURM_JOB_ID.log
forcenet-md serve --model "$model" --device "$device" --listen "$address" > "$log" 2>&1 &
server=$!
children+=("$server")
until grep -qs '^ready' "$log"; do
  kill -0 "$server" 2> /dev/null || { cat "$log" >&2; exit 1; }
  sleep 1
done

srun --mpi="$mpi" --ntasks="$SLURM_NTASKS" "$lmp" -in alloy.in -var ranks "$SLURM_NTASKS" \
  -var address "$address" "$@" &
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
