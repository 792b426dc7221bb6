# weir: see README.md. `make test` is everything a contributor needs.

GO         ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
CHDB        = node_modules/.package-lock.json

.PHONY: build run demo test test-distributed check bench crash clean

## build: bin/weir, and the ClickHouse library beside the sources
build: $(CHDB)
	$(GO) build -o bin/weir ./cmd/weir

## run: the plain server on ./weir-data
run: build
	bin/weir serve

## demo: thousands of requests against a provider stand-in, then the margin
demo: build
	bin/weir demo

## test: every test; what a machine lacks is skipped, unless WEIR_REQUIRE names it
test: $(CHDB)
	$(GO) test -timeout 15m ./...

## test-distributed: several processes of weir on three real Kafka brokers and PostgreSQL; brokers and processes are killed
test-distributed: $(CHDB)
	WEIR_TEST_KAFKA=1 $(GO) test -p 1 -count 1 -timeout 20m -run Kafka ./internal/stream ./processor
	WEIR_TEST_KAFKA=1 $(GO) test -count 1 -timeout 20m ./test/distributed

## check: format, vet, lint, and the tests under the race detector
check: $(CHDB)
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -race -timeout 25m ./...

## bench: weir over a bare proxy, CPU of the whole process tree as a ratio
bench: $(CHDB)
	$(GO) run ./bench/run

## crash: kill -9 under load, again and again; every request is accounted for
crash: $(CHDB)
	$(GO) run ./internal/crash

clean:
	rm -rf bin lib node_modules weir-data

# The library of the embedded ClickHouse engine, pinned by package-lock.json.
$(CHDB): package.json package-lock.json
	npm ci --no-audit --no-fund
