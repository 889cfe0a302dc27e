#!/usr/bin/env bash
# Run a command beside a real object store: Ceph, with its RADOS Gateway on loopback, gone when the command ends.
#
#   tests/object_store/with_ceph.sh .venv/bin/pytest tests/object_store
#
# Needs Debian's ceph-mon, ceph-mgr, ceph-osd, ceph-common and radosgw. One monitor, one OSD that keeps objects in
# memory. IRIS_TEST_S3 tells the tests where it is.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 COMMAND..." >&2; exit 2; }
for program in ceph-mon ceph-mgr ceph-osd ceph radosgw radosgw-admin curl; do
  command -v "$program" >/dev/null ||
    { echo "$program is not installed: apt-get install ceph-mon ceph-mgr ceph-osd ceph-common radosgw curl" >&2; exit 2; }
done

place=$(mktemp -d /tmp/ceph.XXXXXX)
export CEPH_CONF=$place/ceph.conf
pids=()
end() {
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$place"
}
trap end EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
patiently() { # 60 seconds for a command to succeed
  for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done
  echo "$*: not in a minute" >&2; tail -n 5 "$place"/*.log >&2; exit 1
}

fsid=$(python3 -c 'import uuid; print(uuid.uuid4())')
monitor=$(free_port) gateway=$(free_port)
key=$(python3 -c 'import uuid; print(uuid.uuid4().hex)') secret=$(python3 -c 'import uuid; print(uuid.uuid4().hex)')
mkdir "$place"/{mon,mgr,osd}
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$monitor]
ms bind msgr1 = false
public addr = 127.0.0.1
auth allow insecure global id reclaim = false
keyring = $place/keyring
run dir = $place
admin socket = $place/\$name.asok
log file = $place/\$name.log
pid file =
crash dir = $place/crash
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
[mon.a]
mon data = $place/mon
[mgr.x]
mgr data = $place/mgr
[osd.0]
osd data = $place/osd
CONF

entity() { ceph-authtool "$place/keyring" --gen-key --name "$@" >/dev/null; }
ceph-authtool --create-keyring "$place/keyring" >/dev/null
entity mon. --cap mon 'allow *'
entity client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
entity mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *'
entity osd.0 --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
entity client.gateway --cap mon 'allow rw' --cap osd 'allow rwx'
monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor]" "$place/monmap" >/dev/null
ceph-mon --mkfs -i a --monmap "$place/monmap" --keyring "$place/keyring"
ceph-mon -f -i a >"$place/mon.out" 2>&1 & pids+=($!)
patiently ceph --connect-timeout 5 health
ceph-mgr -f -i x >"$place/mgr.out" 2>&1 & pids+=($!)
ceph osd new "$fsid" >/dev/null
ceph-osd --mkfs -i 0 --osd-uuid "$fsid" 2>"$place/mkfs.log"
ceph-osd -f -i 0 >"$place/osd.out" 2>&1 & pids+=($!)
patiently sh -c 'ceph osd stat | grep -q "1 up"'
radosgw -f -n client.gateway --rgw-frontends "beast endpoint=127.0.0.1:$gateway" >"$place/gateway.out" 2>&1 & pids+=($!)
patiently radosgw-admin user create --uid tests --display-name tests --access-key "$key" --secret "$secret"
patiently curl --silent --fail "http://127.0.0.1:$gateway"
echo "$(radosgw --version | cut -d' ' -f1-3) serves S3 at http://127.0.0.1:$gateway" >&2

export OMP_NUM_THREADS=1 # as `make test`: the number of threads decides how sums round
export IRIS_TEST_S3=http://127.0.0.1:$gateway IRIS_TEST_S3_KEY=$key IRIS_TEST_S3_SECRET=$secret
"$@"
