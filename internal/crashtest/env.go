package crashtest

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pulkdb/db/internal/invariant"
)

// Seed returns the seed in PULK_SEED or a new one, and tells the test's log.
func Seed(t testing.TB) int64 {
	t.Helper()
	seed := time.Now().UnixNano()
	if s, err := strconv.ParseInt(os.Getenv("PULK_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d (PULK_SEED repeats it)", seed)
	return seed
}

// Points returns how many losses of power a test shall try: n, or a few where
// tests are to be short or are slow (debug builds, which -race implies), and
// PULK_CRASH times as many if that is set.
func Points(n int) int {
	if testing.Short() || invariant.Debug {
		n /= 20
	}
	if factor, err := strconv.ParseFloat(os.Getenv("PULK_CRASH"), 64); err == nil {
		n = int(float64(n) * factor)
	}
	return n
}

// Report fails the test if err is not nil. It tells the test's log what was tried
// and, if PULK_SUMMARY names a file, adds a line to that, so that what all
// packages tried can be summed up: five numbers and a name.
func Report(t testing.TB, layer string, r Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", layer, err)
	}
	t.Logf("%s: %v, 0 losses", layer, r)
	summarize(t, fmt.Sprintf("%d %d %d %d %d %s\n", r.Points, r.Nested, r.InOpen, r.Faults, r.Reopens, layer))
}

// ReportCount adds a line to PULK_SUMMARY as Report does: the word count, how many of
// what were tried, and of what. Whoever calls it has found nothing wrong.
func ReportCount(t testing.TB, n int, what string) {
	t.Helper()
	summarize(t, fmt.Sprintf("count %d %s\n", n, what))
}

// summarize adds a line to the file that PULK_SUMMARY names, if it names one.
func summarize(t testing.TB, line string) {
	t.Helper()
	name := os.Getenv("PULK_SUMMARY")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err == nil {
		_, err = f.WriteString(line)
	}
	if err != nil {
		t.Fatalf("PULK_SUMMARY: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatalf("PULK_SUMMARY: %v", err)
	}
}
