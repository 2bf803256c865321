# The front door. Meson does the work; `make help` lists what there is.
.NOTPARALLEL:
.PHONY: all run guest check check-kvm check-threads bench bench-real bench-shares bench-io bench-smp soak soak-smp soak-disk soak-kill stress fuzz install clean help packages-%

all: packages-build build/build.ninja
	@ninja -C build

run: packages-guest ## boot the default guest: a shell on a terminal, a demonstration without one
	@$(MAKE) --no-print-directory guest
	@if [ -t 0 ] && [ -t 1 ]; then exec build/trapeze run; else exec build/trapeze run --demo </dev/null; fi

guest: packages-guest build/build.ninja ## make the default guest (KERNEL=PACKAGE for another Debian kernel)
	@ninja -C build
	@guest/mkguest.sh build/guest $(KERNEL)

check: packages-check ## run all tests; the last line is the sum
	@scripts/check.sh

check-kvm: packages-check ## tests of the kvm engine in QEMU with SVM: slow, and apart from `make check`
	@$(MAKE) --no-print-directory guest
	@tests/kvm/run.sh build

check-threads: packages-guest ## the monitor under ThreadSanitizer: several processors, interpreted, and a boot with two
	@$(MAKE) --no-print-directory guest
	@tests/threads.sh build-threads build/guest

bench: packages-bench ## speed and memory against native and QEMU's TCG (ENGINES="A B" for other engines, ROUNDS=N)
	@$(MAKE) --no-print-directory guest
	@bench/run.sh $(ENGINES)
	@bench/memory.sh $(ENGINES)
	@echo 'Real programs (gcc, python3, sqlite3, ...): make bench-real'

bench-real: packages-real ## the same with real programs in the guest (minutes a round and emulator)
	@$(MAKE) --no-print-directory guest
	@bench/real.sh $(ENGINES)

bench-io: packages-io ## disk (fio) and network (iperf3) in a guest against the host's own and QEMU's TCG
	@$(MAKE) --no-print-directory guest
	@bench/io.sh $(ENGINES)

bench-smp: packages-bench ## what a second processor is good for, and guests with two against QEMU's TCG with two
	@$(MAKE) --no-print-directory guest
	@bench/smp.sh $(ENGINES)

bench-shares: packages-bench ## a shared directory, against the host and QEMU with virtiofsd
	@$(MAKE) --no-print-directory guest
	@bench/shares.sh $(ENGINES)

soak: packages-guest ## 50 boots in a row of the default guest (BOOTS=N for another number), then random guests
	@$(MAKE) --no-print-directory guest
	@tests/boot/soak.sh build/trapeze $(or $(BOOTS),50)
	@tests/stress/stress.sh build/tests/stress/stress 600

soak-smp: packages-guest ## 50 boots each with 1, 2, 4 and 16 processors (BOOTS=N)
	@$(MAKE) --no-print-directory guest
	@tests/boot/soak_smp.sh build/trapeze $(or $(BOOTS),50)

soak-disk: packages-soak all ## Debian from a disk, 20 times: login, apt-get install, poweroff, e2fsck (CYCLES=N, IMAGE=FILE)
	@tests/boot/soak_disk.sh build/trapeze $(or $(CYCLES),20) $(IMAGE)

soak-kill: packages-soak ## the monitor is killed 100 times while its guest writes with fsync (KILLS=N)
	@$(MAKE) --no-print-directory guest
	@tests/boot/soak_kill.sh build/trapeze build/guest $(or $(KILLS),100)

stress: all ## random guests on two engines for a minute (SECONDS=N for longer, SEED=N)
	@tests/stress/stress.sh build/tests/stress/stress $(or $(SECONDS),60) $(SEED)

fuzz: packages-check ## fuzz for a minute a target (SECONDS=N for longer)
	@scripts/fuzz.sh $(or $(SECONDS),60)

install: all ## install under PREFIX (default /usr/local)
	@meson configure build --prefix $(or $(PREFIX),/usr/local) && meson install -C build

clean: ## remove the build trees
	rm -rf build build-sanitize build-fuzz build-threads

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

packages-%:
	@scripts/packages.sh $*

build/build.ninja:
	@meson setup build >/dev/null || { meson setup build; exit 2; }
