#!/bin/bash
# i-PI and the model on one node, for a run longer than a job may last: stops in time, queues itself
# again and goes on where it was.   sbatch ipi.sh [WORDS FOR forcenet-md ipi]
#SBATCH --job-name=forcenet-md
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@180         # so many seconds before the end this script is told
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# on a GPU add   #SBATCH --gres=gpu:1   and set DEVICE=cuda:0
set -euo pipefail

source "${FORCENET_MD_ENV:-../../.venv}/bin/activate"    # where forcenet-md is installed
model=${MODEL:-alloy}
device=${DEVICE:-cpu}
most_jobs=${MOST_JOBS:-100}
export OMP_NUM_THREADS=1

# The newest of what there is to go on from; jobs that share a node need sockets of their own.
input=alloy-job.xml
[[ -e $input ]] || sed "s/JOB/$SLURM_JOB_ID/g" alloy.xml > "$input"
for file in RESTART alloy-ipi.restart; do
  if [[ $file -nt $input ]]; then input=$file; fi
done

stopped=
forcenet-md ipi "$input" --model "$model" --device "$device" "$@" &
run=$!
finish() {
  kill "$run" 2> /dev/null || true
  wait
}
trap finish EXIT
trap 'exit 143' TERM
trap 'stopped=yes; touch EXIT' USR1    # i-PI then writes RESTART and ends

status=138
while ((status == 138)); do    # a signal interrupts the waiting
  status=0
  wait "$run" || status=$?
done
((status == 0)) || exit "$status"
if [[ -z $stopped ]]; then
  echo "all steps are done"
elif ((${SLURM_RESTART_COUNT:-0} + 1 < most_jobs)); then
  echo "the time of this job is over: queued again"
  trap - EXIT
  scontrol requeue "$SLURM_JOB_ID"
else
  echo "not done after $most_jobs jobs" >&2
  exit 1
fi
