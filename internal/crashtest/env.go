package crashtest

import (
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
