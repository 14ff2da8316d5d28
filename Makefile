# One line per target; .ci/run calls the same ones.

GO ?= go
FUZZTIME ?= 20s
HOURS ?= 1

all: lint test race

test: ; f=$$(mktemp); PULK_SUMMARY=$$f $(GO) test -count=1 ./...; s=$$?; sh .ci/crashes $$f 10000 || s=1; rm -f $$f; exit $$s
race: ; PULK_REQUIRE_PATHS=1 CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 12m ./...
crash: ; $(GO) test -count=1 -run 'Kill|Crash|Fault|Damage|BadBytes|Missing|Version|PowerLoss' ./...
# Every way of losing power and of failing that the harnesses know; SEED repeats a run.
powerloss: ; f=$$(mktemp); PULK_SUMMARY=$$f PULK_SEED=$(SEED) $(GO) test -count=1 -timeout 30m -run '^(TestPowerLoss|TestEveryFault)$$' ./...; s=$$?; sh .ci/crashes $$f; rm -f $$f; exit $$s
# That for HOURS hours, with new seeds all the time; it ends at the first loss.
soak-crash: ; end=$$(( $$(date +%s) + $(HOURS) * 3600 )); f=$$(mktemp); s=0; while [ $$s = 0 ] && [ $$(date +%s) -lt $$end ]; do PULK_CRASH=5 PULK_SUMMARY=$$f $(GO) test -count=1 -timeout 2h -run '^(TestPowerLoss|TestEveryFault)$$' ./log ./snapshot ./pagecache ./tree . || s=1; sh .ci/crashes $$f; done; rm -f $$f; exit $$s
# Processes that write, with transactions, read snapshots and cleaning, ended by kill -9
# every few seconds, three kinds of them for HOURS hours each: all that was acknowledged
# is there, Verify finds nothing, and space stays within its bounds.
soak-kill: ; f=$$(mktemp); PULK_SOAK=$(HOURS)h PULK_SUMMARY=$$f $(GO) test -count=1 -v -parallel 8 -timeout $$(( $(HOURS) * 180 + 60 ))m -run '^(TestKill|TestBankKill|TestSoakKill)$$' .; s=$$?; sh .ci/crashes $$f; rm -f $$f; exit $$s
# Writes the lists of file operations in testdata anew: review the diff.
golden: ; $(GO) test -count=1 -run '^TestFileOperations$$' ./log ./pagecache -update
# The bugs that are planted, and after how much each was found.
planted: ; $(GO) test -tags pulkdebug -count=1 -v -run '^(TestPlantedBugs|TestBrokenIsFound|Test.*FindMistakes)$$' ./log ./pagecache ./tree . | grep -E 'found|^(---|ok|FAIL)|    ---'
# Every byte of small stores flipped, every length cut, every file missing, swapped and foreign.
damage: ; f=$$(mktemp); PULK_DAMAGE=1 PULK_SUMMARY=$$f $(GO) test -count=1 -timeout 60m -run '^(TestBadBytes|TestEveryDamage|TestDamage|TestSalvage|TestBackupDamaged)' ./log ./snapshot ./tree .; s=$$?; sh .ci/crashes $$f; rm -f $$f; exit $$s
fuzz: ; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done
lint: ; test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }; $(GO) vet ./...
cross: ; for t in linux/arm64 darwin/arm64 windows/amd64; do echo $$t; GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GO) vet ./... || exit 1; done
bench: ; $(GO) test -run '^$$' -bench . -benchtime 2s -timeout 30m .
million: ; PULK_MILLION=1 $(GO) test -count=1 -v -run '^TestMillion$$' -timeout 30m .
# The long forms of tests that CI runs for seconds; SOAK says for how long, as 1h.
serial: ; PULK_SERIAL=$${SOAK:-10m} CGO_ENABLED=1 $(GO) test -race -count=1 -v -run '^(TestStrictlySerializable|TestBrokenIsFound)$$' -timeout 24h .
bank: ; PULK_BANK=$${SOAK:-2m} $(GO) test -count=1 -v -run '^TestBank' -timeout 24h .
interleave: ; PULK_INTERLEAVE=$${SOAK:-10m} $(GO) test -count=1 -v -run '^Test(Gather)?Interleavings$$' -timeout 24h . ./pagecache
metamorphic: ; PULK_METAMORPHIC=$${SOAK:-10m} CGO_ENABLED=1 $(GO) test -race -count=1 -v -run '^TestMetamorphic$$' -timeout 24h .
churn: ; PULK_CHURN=$${SOAK:-10m} CGO_ENABLED=1 $(GO) test -race -count=1 -v -run '^TestChurn$$' -timeout 24h .
held: ; PULK_HELD=1000000 $(GO) test -count=1 -v -run '^TestHeldSnapshot$$' -timeout 30m .
# Costs of a store that is larger than its cache: see go doc ./cmd/measure.
measure: ; $(GO) run ./cmd/measure $(MEASURE)
measure-1k: ; $(GO) run ./cmd/measure -keys 1115000 -value 1024 $(MEASURE)
measure-64k: ; $(GO) run ./cmd/measure -keys 17700 -value 65536 $(MEASURE)
measure-small: ; $(GO) run ./cmd/measure -keys 1000000 -cache 13 $(MEASURE)
reopen: ; $(GO) run ./cmd/measure $(MEASURE) reopen
cycles: ; $(GO) run ./cmd/measure -keys 1000000 -cache 13 $(MEASURE) cycles
stall: ; $(GO) run ./cmd/measure $(MEASURE) stall
scanhits: ; $(GO) run ./cmd/measure -keys 1000000 -cache 14 -writers 1 -time 10s $(MEASURE) scanhits
# Comparisons with other stores: see go doc ./bench. BENCHTAGS=lmdb adds LMDB, which needs cgo and its library.
bench-compare: ; cd bench && for k in 1000000 10000000; do $(GO) run -tags "$(BENCHTAGS)" . -keys $$k -write results-$$k.json -svg chart-$$k.svg $(BENCH) || exit 1; done
bench-small: ; cd bench && $(GO) vet . && $(GO) test -count=1 . && $(GO) run . -keys 5000 -seconds 0.01 -rounds 1 -one
# A value of 1 GiB in a store with a cache of 64 MiB: see go doc ./cmd/gigabyte.
gigabyte: ; $(GO) run ./cmd/gigabyte $(GIGABYTE)
quickstart: ; d=$$(mktemp -d) && $(GO) run ./examples/quickstart -dir $$d/store && $(GO) run ./examples/quickstart -dir $$d/store; s=$$?; rm -rf $$d; exit $$s

.PHONY: all test race crash powerloss golden planted soak-crash soak-kill damage fuzz lint cross bench million serial bank interleave metamorphic churn held measure measure-1k measure-64k measure-small reopen cycles stall scanhits bench-compare bench-small gigabyte quickstart
