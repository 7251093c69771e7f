#!/bin/bash
# The model on one node, i-PI on another, over tcp, which i-PI does not protect: anyone who reaches
# the port can send it forces. Otherwise as ipi.sh.   sbatch ipi-two-nodes.sh
#SBATCH --job-name=forcenet-md
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@180         # so many seconds before the end this script is told
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# the server, and this script with it
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --partition=gpu
#SBATCH --gres=gpu:1
#SBATCH hetjob
# i-PI
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --partition=main
set -euo pipefail

source "${FORCENET_MD_ENV:-../../.venv}/bin/activate"    # where forcenet-md is installed
model=${MODEL:-alloy}
device=${DEVICE:-cuda:0}
most_jobs=${MOST_JOBS:-100}
export OMP_NUM_THREADS=1

# The newest of what there is to go on from; jobs that share a node need ports of their own.
input=alloy-job.xml
port=${PORT:-$((20000 + SLURM_JOB_ID % 10000))}
[[ -e $input ]] || sed -e "s/mode='unix'/mode='inet'/" \
  -e "s|<address>.*</address>|<address> 0.0.0.0 </address> <port> $port </port>|" \
  alloy.xml > "$input"
for file in RESTART alloy-ipi.restart; do
  if [[ $file -nt $input ]]; then input=$file; fi
done

port=$(sed -n 's|.*<port>\s*\([0-9]*\)\s*</port>.*|\1|p' "$input")
node=$(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1" | head -n 1)

# However this script ends, nothing is left behind.
stopped=
children=()
finish() {
  kill "${children[@]}" 2> /dev/null || true
  wait
}
trap finish EXIT
trap 'exit 143' TERM
trap 'stopped=yes; touch EXIT' USR1    # i-PI then writes RESTART and ends
rm -f EXIT

# The server waits until i-PI is there, and ends when i-PI says so.
forcenet-md serve --model "$model" --device "$device" --ipi "tcp:$node:$port" \
  --template ../../inputs/ipi/alloy.xyz &
server=$!
children+=("$server")
srun --het-group=1 i-pi "$input" &
ipi=$!
children+=("$ipi")

# Whichever ends first: in good order, then the other does too; else it is the job's end.
status=138
while ((status == 138)); do    # a signal interrupts the waiting
  status=0
  wait -n "${children[@]}" || status=$?
done
((status == 0)) || exit "$status"
wait "$ipi" || [[ -n $stopped ]]
if [[ -z $stopped ]]; then
  echo "i-PI has ended"
elif ((${SLURM_RESTART_COUNT:-0} + 1 < most_jobs)); then
  echo "the time of this job is over: queued again"
  finish
  trap - EXIT
  scontrol requeue "$SLURM_JOB_ID"
else
  echo "not done after $most_jobs jobs" >&2
  exit 1
fi
