package db_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/paths"
)

// TestMain runs the child of the tests that kill a process, if this process is
// one, and checks at the end that the structural paths were taken.
func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	// Model tests are this long unless the command line says otherwise.
	flag.Set("rapid.checks", "200")
	flag.Set("rapid.steps", "120")
	flag.Parse()
	if short() {
		flag.Set("rapid.checks", "30")
	}
	code := m.Run()
	if code == 0 && os.Getenv("PULK_REQUIRE_PATHS") == "1" {
		code = requirePaths()
	}
	os.Exit(code)
}

// short reports whether tests that repeat something do it less often: debug
// builds, which the race detector implies, take several times as long.
func short() bool { return testing.Short() || invariant.Debug }

// requirePaths returns 1 and says so if a structural path was never taken.
// Outside debug builds nothing is counted, and it returns 0.
func requirePaths() int {
	counts := paths.Counts()
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("path %-24s %d\n", name, counts[name])
	}
	missing := slices.DeleteFunc(paths.Missing(), func(name string) bool {
		return slices.Contains(notHere, name)
	})
	if len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "paths never taken: %s\n", strings.Join(missing, " "))
		return 1
	}
	return 0
}

// notHere are the paths that no call of this package leads to with certainty: a split posts its separators itself, and
// package tree's tests force the case that it does not; and the writer bit ends a
// race that package pagecache's tests stage.
var notHere = []string{"FinishSplit", "WriterBitFallback"}
