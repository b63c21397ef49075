#!/usr/bin/env bash
# Run rehearsal.yml through a Slurm of one node, kill a job in the middle, and see that the sweep ends right.
# It needs .venv-sweep (`make .venv-sweep/installed`) and what single_node.sh names.
set -euo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
results=$root/_build/sweeps/rehearsal
folder=$(mktemp -d /tmp/slurm-XXXXXX)
# shellcheck disable=SC2064
trap "'$root/sweeps/slurm/single_node.sh' stop '$folder'; rm -rf '$folder'" EXIT

fail() {
  echo "error: $1" >&2
  tail -n 30 "$folder/sweep.log" >&2 || true
  find "$results/.snakemake/slurm_logs" -name '*.log' -exec tail -n 20 {} + >&2 || true
  exit 1
}

[ -x "$root/.venv-sweep/bin/snakemake" ] || { echo "error: run 'make .venv-sweep/installed' first" >&2; exit 1; }
rm -rf "$results"
"$root/sweeps/slurm/single_node.sh" start "$folder"
export SLURM_CONF=$folder/slurm.conf PATH=$folder/bin:$PATH

cd "$root"
# A Slurm without accounting knows nothing of sacct, so squeue is asked how jobs are.
.venv-sweep/bin/snakemake --snakefile sweeps/Snakefile --config sweep=sweeps/rehearsal.yml --executor slurm --jobs 4 \
  --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 --latency-wait 10 \
  --seconds-between-status-checks 5 > "$folder/sweep.log" 2>&1 &
sweep=$!

job=""
while [ -z "$job" ]; do
  kill -0 "$sweep" 2> /dev/null || fail "the sweep ended before a job could be killed"
  sleep 1
  job=$(squeue --noheader --states=RUNNING --format='%i %M' | awk -F '[ :]' '$2 * 60 + $3 >= 5 {print $1; exit}')
done
echo "killing job $job while it runs"
scancel --signal=KILL --full "$job"

wait "$sweep" || fail "the sweep failed"
grep -q "Trying to restart job" "$folder/sweep.log" || fail "the killed job was not started again"
echo "the killed job was started again, and the sweep ended right:"
sed -n '/^[0-9]* runs:/,/^table:/p' "$folder/sweep.log"
grep -q "^4 runs: 4 done$" "$folder/sweep.log" || fail "the table does not hold 4 runs that are done"
