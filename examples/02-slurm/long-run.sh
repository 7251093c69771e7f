#!/bin/bash
# A run longer than a job may last: stops in time, queues itself again and goes on where it was,
# until LAMMPS has written alloy-final.data.   sbatch long-run.sh [WORDS FOR LAMMPS]
#SBATCH --job-name=forcenet-md
#SBATCH --nodes=1
#SBATCH --ntasks=4                  # ranks of LAMMPS
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# on a GPU add   #SBATCH --gres=gpu:1   and set DEVICE=cuda:0
set -euo pipefail

source "${FORCENET_MD_ENV:-../../.venv}/bin/activate"    # where forcenet-md is installed
model=${MODEL:-alloy}
device=${DEVICE:-cpu}
lmp=${LMP:-lmp}
mpi=${MPI:-pmi2}    # what the MPI of lmp speaks (srun --mpi=list)
margin=${MARGIN:-120}    # s before the end of the job: for ten steps and a restart file
most_jobs=${MOST_JOBS:-100}
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
log=server-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}.log
forcenet-md serve --model "$model" --device "$device" --listen "$address" > "$log" 2>&1 &
server=$!
children+=("$server")
until grep -qs '^ready' "$log"; do
  kill -0 "$server" 2> /dev/null || { cat "$log" >&2; exit 1; }
  sleep 1
done

end=$(date --date "$(squeue --noheader --job "$SLURM_JOB_ID" --format %e)" +%s)
limit=$((end - $(date +%s) - margin))
((limit > 0)) || { echo "this job ends within $margin s: give it more --time" >&2; exit 1; }

rm -f alloy-final.data
srun --mpi="$mpi" --ntasks="$SLURM_NTASKS" "$lmp" -in alloy.in -var ranks "$SLURM_NTASKS" \
  -var address "$address" -var limit "$limit" "$@" &
children+=("$!")

# Whichever ends first decides: LAMMPS with its exit code, the server as a failure.
status=0
wait -n "${children[@]}" || status=$?
if ! kill -0 "$server" 2> /dev/null; then
  tail -n 5 "$log" >&2
  echo "the force server ended before LAMMPS did" >&2
  exit 1
fi
((status == 0)) || exit "$status"
if [[ -e alloy-final.data ]]; then
  echo "all steps are done"
elif ((${SLURM_RESTART_COUNT:-0} + 1 < most_jobs)); then
  echo "the time of this job is over: queued again"
  finish
  trap - EXIT
  scontrol requeue "$SLURM_JOB_ID"
else
  echo "not done after $most_jobs jobs" >&2
  exit 1
fi
