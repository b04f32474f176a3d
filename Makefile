# Armarium: everything is built and tried from here. `make help` lists the targets.
#
# Debian packages are installed by name by `make setup`, which the targets below run when
# something is missing. build/ holds every product and may be deleted at any time.

SHELL       := /bin/bash
.DEFAULT_GOAL := all
GO          ?= go
TAGS        := netgo osusergo sqlite_omit_load_extension
REPRO       := -trimpath -buildvcs=false
export CGO_ENABLED ?= 1

# What a fresh Debian machine needs beside Go and make.
PACKAGES := gcc libc6-dev qemu-system-x86 ovmf nginx-light e2fsprogs mtools dosfstools gdisk \
            kmod xz-utils python3-doc wget openssl binutils ca-certificates chromium
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all help setup check lint test run demo image bench fuzz qemu clean FORCE

all: build/init build/armariumd build/armarium ## build all programs

help: ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## install the Debian packages that the other targets need
	@missing=; for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "setup: installing$$missing"; \
	  $(SUDO) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -q -y --no-install-recommends $$missing; \
	elif ! ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1; then $(SUDO) apt-get update -q; fi

# The programs. PID 1 and the command line tool are pure Go; the daemon links SQLite statically.
build/init: FORCE
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build $(REPRO) -ldflags '-s -w -buildid=' -o $@ ./appliance
build/armarium: FORCE
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build $(REPRO) -ldflags '-s -w -buildid=' -o $@ ./provision
build/armariumd: FORCE
	@mkdir -p build
	$(GO) build $(REPRO) -tags '$(TAGS)' -ldflags '-s -w -buildid= -linkmode external -extldflags "-static"' -o $@ ./daemon
FORCE:

# The image. `make image` insists on the locked versions of its Debian packages; everything
# else takes what the archive has now, and says so when it differs.
KERNEL ?= any
image: KERNEL := lock
image: build/armarium.img ## build the disk image from the locked inputs

build/armarium.img: build/init build/armariumd FORCE
	$(GO) run ./initramfs -init build/init -daemon build/armariumd -inputs build/inputs -kernel $(KERNEL) -boot build/boot -o build/initramfs.cpio.zst
	$(GO) run ./image -boot build/boot -initramfs build/initramfs.cpio.zst -o $@ -z $@.zst

run: setup build/armarium build/armarium.img ## show a five-node network on this machine, until Ctrl-C
	@$(GO) build -o build/demonstrate ./qemu-tests/demo
	@$(SUDO) build/demonstrate $(RUN)

demo: setup build/armarium build/armarium.img ## the same without a person: damage, repair, read; ends with a table
	@$(GO) build -o build/demonstrate ./qemu-tests/demo
	@$(SUDO) build/demonstrate -auto $(RUN)

# RUN='-tree DIR -section NAME' publishes another tree of HTML files.
RUN ?=

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	$(GO) vet -tags '$(TAGS)' ./...
	$(GO) tool staticcheck -tags '$(TAGS)' ./...

check: lint ## gofmt, vet, staticcheck, layers, short tests
	$(GO) test -tags '$(TAGS)' ./daemon
	$(GO) test -short -tags '$(TAGS)' $(UNIT)

# qemu-tests boots machines; with -short its package vm, the machine driver, does not.
UNIT = $$($(GO) list ./... | grep -v -e '^armarium/qemu-tests$$' -e '^armarium/qemu-tests/vm$$')

test: setup lint build/armarium build/armarium.img ## all tests: units with the race detector, kills of the daemon, QEMU
	$(GO) test -race -tags '$(TAGS)' $(UNIT)
	$(GO) test -race -short -tags '$(TAGS)' ./qemu-tests/vm
	$(GO) test -count=1 -timeout 30m -tags '$(TAGS)' ./qemu-tests

qemu: setup build/armarium build/armarium.img ## all tests that boot machines or kill the daemon, verbose
	$(GO) test -count=1 -timeout 30m -v -tags '$(TAGS)' ./qemu-tests ./qemu-tests/vm

bench: setup build/armarium build/armarium.img ## measure beside peers; table, and build/bench.jsonl
	$(GO) run -tags '$(TAGS)' ./qemu-tests/bench -bin build -o build/bench.jsonl

FUZZTIME ?= 20s
fuzz: ## run every fuzz target for FUZZTIME
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9]+' $$p/*_test.go | cut -c6- | sort); do \
	    echo "fuzz: $$p $$f for $(FUZZTIME)"; \
	    $(GO) test -tags '$(TAGS)' -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$p || exit 1; \
	  done; done

clean: ## delete build/, with all downloads
	rm -rf build 2>/dev/null || $(SUDO) rm -rf build
