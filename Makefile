# Every target runs from a fresh clone; those that need root say so.
SHELL := /bin/bash
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

help: ## Print this.
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## Build bin/cthelperd and bin/cthelper.
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

check: ## Vet, formatting, staticcheck, unit tests with the race detector, golden captures, 2 s each fuzz target.
	go vet ./...
	cd testdata/outoftree && go vet ./...
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not as gofmt writes it: $$bad" >&2; exit 1; fi
	go run $(STATICCHECK) ./...
	go test -short -race ./...
	cd testdata/outoftree && go test ./...
	scripts/fuzz 2s

test: ## All tests: check, and end to end in network namespaces, under two kernels. Needs root.
	scripts/install
	$(MAKE) --no-print-directory check
	scripts/test native
	scripts/test vm -pairwise
	scripts/test skipped

test-vm: ## Those that need a kernel, under Debian's, emulated; of the matrix each pair once. Needs root.
	scripts/install
	scripts/test vm -pairwise

long: ## 10 minutes each fuzz target, 100,000 simulated cases, a million messages of H.323, all tests under Debian's kernel, soak, benchmarks; a summary.
	scripts/long

soak: ## 15 minutes of 2,000 sessions, with kills, reloads and emptied tables. Needs root.
	scripts/install
	go test -count=1 -timeout 1h -v -run '^TestSoak$$' ./e2e -soak $${SOAKTIME:-15m} -sessions $${SESSIONS:-2000} -rate $${RATE:-100}

demo: ## Show a transfer fail without the daemon, and work with it. Needs root.
	scripts/demo

bench: ## Beside its peers, under two kernels; writes bench/RESULTS.md. Needs root and an idle machine.
	scripts/bench

bench-go: ## Go's benchmarks of single packages.
	go test -run '^$$' -bench . -benchmem ./...

clean: ## Remove what was built and downloaded here.
	rm -rf bin .cache

.PHONY: help build check test test-vm long soak demo bench bench-go clean
