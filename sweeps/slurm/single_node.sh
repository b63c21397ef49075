#!/usr/bin/env bash
# A Slurm of one node, for trying a sweep out: single_node.sh start FOLDER, and single_node.sh stop FOLDER.
#
# It needs Debian's or Ubuntu's slurmctld, slurmd, slurm-client and munge; no systemd, no root, and nothing outside
# FOLDER. After `start`, a shell reaches it by: export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH
set -euo pipefail

usage="usage: single_node.sh start|stop FOLDER"
action=${1:?$usage}
folder=$(realpath -m "${2:?$usage}")
export SLURM_CONF=$folder/slurm.conf

# A daemon writes its process id; the file goes when it has ended.
stop() {
  local daemon pid
  for daemon in slurmd slurmctld munged; do
    pid=$(cat "$folder/$daemon.pid" 2> /dev/null) || continue
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    rm -f "$folder/$daemon.pid"
  done
}

# What a log says last, where a daemon did not come up.
failed() {
  echo "error: $1" >&2
  tail -n 5 "$folder"/*.log >&2 || true
  stop
  exit 1
}

start() {
  local program user host cores memory
  export PATH=$PATH:/usr/sbin
  for program in munged slurmctld slurmd srun; do
    command -v "$program" > /dev/null || {
      echo "error: there is no $program; on Debian and Ubuntu: apt-get install slurmctld slurmd slurm-client munge" >&2
      exit 1
    }
  done
  [ ! -e "$folder/slurmctld.pid" ] || { echo "error: a node runs in $folder already; stop it first" >&2; exit 1; }
  mkdir -p "$folder"/{state,spool} && chmod 700 "$folder"
  user=$(id -un) host=$(hostname -s) cores=$(env -u OMP_NUM_THREADS nproc)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
  (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
  cat > "$SLURM_CONF" <<CONF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_PORT:-16817}
SlurmdPort=$((${SLURM_PORT:-16817} + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MinJobAge=3600
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  # Snakemake drops SLURM_CONF inside a job, where it calls srun; on a cluster that file has its usual place.
  mkdir -p "$folder/bin"
  printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
  chmod +x "$folder/bin/srun"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2> "$folder/start.log" || failed "munged did not start"
  slurmctld 2>> "$folder/start.log" || failed "slurmctld did not start"
  slurmd 2>> "$folder/start.log" || failed "slurmd did not start"
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ] && return
    sleep 0.2
  done
  failed "the node did not become idle within 20 seconds"
}

case $action in
  start) start && echo "a node of $(env -u OMP_NUM_THREADS nproc) cores is up; export SLURM_CONF=$SLURM_CONF PATH=$folder/bin:\$PATH" ;;
  stop) stop ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
