#!/bin/sh
# The virtio devices under the kvm engine, in the machine of run.sh: a share, the job's port, a disk, the network,
# sockets (vsock) both ways, the balloon by --control, with two processors; then the terminal (hvc0).
mkdir -p /tmp/share && cd /tmp || exit 2
echo "from the host" >share/there
cp /bin/vsock_peer share/peer
head -c 300000 /dev/urandom >data
head -c 16777216 /dev/zero >disk
passed=0 failed=0
result() { # name status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"; else failed=$((failed + 1)); echo "FAIL $1"; fi
}
field() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p"; } # of the control socket's answer
# The guest ends when its standard input does.
rm -f in; mkfifo in
exec 9<>in
vsock_peer echo ./vsock_80 9 >served 2>&1 &
server=$!
trapeze run --engine kvm --cpus 2 --memory 512M --share /tmp/share:s --disk /tmp/disk,scratch --control /tmp/control \
    --vsock /tmp/vsock --stats -- sh -c 'cat /mnt/s/there; echo "from the guest" >/mnt/s/back; ls /sys/bus/virtio/drivers
    dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>&1 | tail -n 1
    ip -4 addr show eth0 | grep inet; ls /dev/vport*p0 /dev/vsock; cd /tmp; head -c 300000 /dev/urandom >d; mnt=/mnt/s
    $mnt/peer send 80 <d | cmp - d && echo same; for i in 1 2 3 4 5 6 7 8; do (echo "stream $i" | $mnt/peer send 80) & done
    wait; $mnt/peer send 81 </dev/null || echo refused; $mnt/peer echo 22 1 & read -r end; echo "said $end"; exit 5' \
    <in >out 2>messages &
guest=$!
n=0
until grep -q "^serving" out || [ $n = 600 ] || ! kill -0 $guest; do sleep 0.5; n=$((n + 1)); done
grep -q '^from the host' out; result "the guest reads from a share" $?
[ "$(cat share/back)" = "from the guest" ]; result "the guest writes to a share" $?
grep -q '^virtio_blk' out && grep -q '^virtio_net' out && grep -q '^virtio_balloon' out && grep -q '^virtiofs' out; result "drivers" $?
grep -q '^64+0 records out' out; result "the guest reads from a disk" $?
grep -q 'inet 10\.' out; result "the guest has an address" $?
grep -q '^/dev/vport' out; result "a job's streams over a virtio port" $?
grep -qx same out && [ "$(grep -c '^stream' out)" = 8 ] && grep -qx refused out; result "sockets to the host" $?
vsock_peer send ./vsock:23 </dev/null >there 2>&1
[ $? = 1 ]; result "a port of the guest's that nobody has" $?
vsock_peer send ./vsock:22 <data | cmp - data; result "a socket to the guest" $?
trapeze control control balloon 200M >answer
n=0
until [ "$(trapeze control control balloon | tee answer | field actual)" -ge 209715200 ] || [ $n = 120 ]; do sleep 0.5; n=$((n + 1)); done
[ $n -lt 120 ]; result "the balloon grows: $(cat answer)" $?
trapeze control control balloon 0 >answer
n=0
until [ "$(trapeze control control balloon | tee answer | field actual)" = 0 ] || [ $n = 120 ]; do sleep 0.5; n=$((n + 1)); done
[ $n -lt 120 ]; result "and shrinks" $?
echo "good bye" >in
wait $guest
[ $? = 5 ] && grep -q '^said good bye' out; result "standard input, output and status" $?
grep 'exits' messages
kill $server 2>/dev/null
terminal trapeze run --engine kvm >terminal 2>&1; result "a terminal's size, and its change" $?
[ $failed = 0 ] || cat out messages terminal
echo "$passed passed, $failed failed"
[ $failed = 0 ]
