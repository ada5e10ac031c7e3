# Every target installs through apt what it needs and is missing (see packaging/deps).
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GREMLINS := github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
# The version of a package begins with a digit and sorts: v1.2.3-4-gabc is 1.2.3+4+gabc,
# and without a tag it is the time of the commit, 0~git<time>.<hash>.
PACKAGEVERSION = $(or $(shell echo '$(VERSION)' | sed -nE 's/-(alpha|beta|rc)/~\1/; s/^v?([0-9]+\.[0-9].*)/\1/p' | tr - +),0~git$(shell TZ=UTC0 git show -s --format=%cd --date=format-local:%Y%m%d%H%M%S 2>/dev/null).$(subst -,+,$(VERSION)))
PACKAGE = PACKAGEVERSION='$(PACKAGEVERSION)' MAINTAINER='$(MAINTAINER)' \
	go run $(NFPM) package --config packaging/nfpm.yaml --target dist/ --packager
MAINTAINER := pcapdaemon maintainers <maintainers@pcapdaemon.invalid>
PREFIX := /usr/local
# Where Wireshark looks for capture interfaces; empty: it does not get this one.
WIRESHARK := $(firstword $(wildcard /usr/lib/*/wireshark/extcap /usr/libexec/wireshark/extcap /usr/lib64/wireshark/extcap) /usr/libexec/wireshark/extcap)
# As a distribution hardens what it builds; for tests as well, which measure the
# program that is delivered. An address that cannot be guessed needs -buildmode=pie too.
export CGO_CFLAGS := -O2 -g -Wformat -Werror=format-security -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection
export CGO_LDFLAGS := -Wl,-z,relro -Wl,-z,now
TESTFLAGS := -race
# Programs that the race detector is built into need not wait for a second at their end.
export GORACE := atexit_sleep_ms=0

.PHONY: help deps extra build test lint demo screenshot bench soak mutants deb rpm install clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

deps: ## install what is missing to build, test and demonstrate
	@packaging/deps build test demo

extra: ## install what a few tests need and is large: a browser, Wireshark, Prometheus, and more
	@packaging/deps build test extra

build: ## build ./pcapdaemon
	@packaging/deps build
	go build -buildmode=pie -trimpath -ldflags '$(LDFLAGS)' -o pcapdaemon .

# No answers from the cache, which does not see what the built program is made
# of; two packages at a time, which mostly wait, the longest first, and e2e alone,
# which measures. The race detector sees nothing in e2e, which drives a program that is built without it.
# With CI=true nothing may be skipped, so that all is installed that tests can need.
test: ## run all tests; those that open interfaces need root
	@packaging/deps build test $(if $(filter true,$(CI)),extra)
	@echo "Compiling and running the tests: about five minutes on two cores, and two more the first time."
	@go run ./packaging/progress -count=1 -p 2 $(TESTFLAGS) -timeout 15m ./tap ./pubsub $$(go list ./... | grep -v '/e2e$$') -- \
		-count=1 -timeout 15m ./e2e

lint: deps ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -s -l .); [ -z "$$unformatted" ] || { echo "gofmt -s would change: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags compare,soak ./...
	go run $(STATICCHECK) -tags compare,soak ./...

demo: ## make a capture before your eyes
	@packaging/demo

screenshot: ## make docs/wireshark.png again: three hosts in one Wireshark
	@packaging/screenshot

bench: build ## measure beside tcpdump, and the inner parts; COMPARE names some of them
	@packaging/deps test
	go test -tags compare -run '^TestCompare' -timeout 60m -count=1 -v ./e2e
	go test -run '^$$' -bench . -benchmem . ./capfile ./pubsub

soak: build ## ten minutes of everything at once, or SOAK, a duration, and two hundred kills
	@packaging/deps test
	go test -tags soak -run '^TestSoak' -timeout 60m -count=1 -v ./e2e

# Folders whose unit tests are tried, each for so long at most; a point is package
# main. Tests that wait for seconds are left out: try what lived with them by hand, or
# empty MUTANTSHORT. How long a mutant may take is told from a run of the tests, which
# must not come from the cache. What covers package main would be looked up in all packages and so
# in e2e: it is tried in a copy of the sources that has no other tests.
MUTANTS := $(filter-out e2e testbed sharktest,$(patsubst %/,%,$(sort $(dir $(wildcard */*_test.go))))) .
MUTANTTIME := 10m
MUTANTSHORT := -short
MUTATE = GOFLAGS="$$GOFLAGS -count=1 $(MUTANTSHORT)" timeout -s INT $(MUTANTTIME) \
	go run $(GREMLINS) unleash -S lt --timeout-coefficient 3
mutants: ## change the code of MUTANTS, folders, and list the changes that no unit test notices
	@packaging/deps build test
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	tar -cf - --exclude=./.git --exclude=./e2e --exclude='./*/*_test.go' . | tar -xf - -C "$$copy" && \
	for folder in $(MUTANTS); do echo "$$folder, for $(MUTANTTIME) at most"; \
		case $$folder in \
		.) (cd "$$copy" && $(MUTATE) --exclude-files / .) ;; \
		*) $(MUTATE) "./$$folder" ;; \
		esac || [ $$? -eq 124 ] || exit 1; done

deb: build dist/pcapdaemon.8.gz ## build dist/pcapdaemon_*.deb
	packaging/deb/changelog '$(PACKAGEVERSION)' '$(VERSION)' '$(MAINTAINER)' | gzip -9n > dist/changelog.gz
	ARCH=$$(dpkg --print-architecture) MULTIARCH="$$(gcc -print-multiarch)" $(PACKAGE) deb

rpm: build dist/pcapdaemon.8.gz ## build dist/pcapdaemon-*.rpm, for systems like this one
	ARCH=$$(go env GOARCH) LIBPCAP="$$(packaging/rpm/libpcap pcapdaemon)" $(PACKAGE) rpm

dist/pcapdaemon.8.gz: packaging/pcapdaemon.8
	@mkdir -p dist
	gzip -9nc $< > $@

install: ## install what make build has built, with papers and unit, below PREFIX
	@[ -x pcapdaemon ] || { echo "there is no ./pcapdaemon yet: run 'make build' first, which needs no root" >&2; exit 1; }
	install -D -m 0755 pcapdaemon $(DESTDIR)$(PREFIX)/bin/pcapdaemon
	install -D -m 0644 packaging/pcapdaemon.8 $(DESTDIR)$(PREFIX)/share/man/man8/pcapdaemon.8
	install -D -m 0644 README.md $(DESTDIR)$(PREFIX)/share/doc/pcapdaemon/README.md
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/pcapdaemon/docs docs/operations.md docs/wireshark.png
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/pcapdaemon/examples/prometheus examples/prometheus/*
	find triggers -type f | while read -r file; do \
		install -D -m "$$([ -x "$$file" ] && echo 0755 || echo 0644)" "$$file" "$(DESTDIR)$(PREFIX)/share/pcapdaemon/$$file" && \
		sed -i 's,/usr/share/pcapdaemon,$(PREFIX)/share/pcapdaemon,; s,/usr/bin/pcapdaemon,$(PREFIX)/bin/pcapdaemon,' "$(DESTDIR)$(PREFIX)/share/pcapdaemon/$$file" || exit; done
	[ -z "$(WIRESHARK)" ] || { install -d "$(DESTDIR)$(WIRESHARK)" && \
		ln -sfn "$(PREFIX)/bin/pcapdaemon" "$(DESTDIR)$(WIRESHARK)/pcapdaemon"; }
	install -d $(DESTDIR)/etc/systemd/system
	sed 's,/usr/bin/pcapdaemon,$(PREFIX)/bin/pcapdaemon,' pcapdaemon.service > $(DESTDIR)/etc/systemd/system/pcapdaemon.service
	install -d -m 0755 $(DESTDIR)/etc/pcapdaemon
	[ -e $(DESTDIR)/etc/pcapdaemon/env ] || install -m 0640 packaging/env $(DESTDIR)/etc/pcapdaemon/env

clean: ## remove what was built
	rm -rf pcapdaemon dist
