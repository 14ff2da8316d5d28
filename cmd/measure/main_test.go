package main

import (
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The writer that reopen kills is this program, so this test binary must be able
// to play it.
func TestMain(m *testing.M) {
	if os.Args[len(os.Args)-1] == "write" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Every mode runs to its end in a small store, and finds in it what it expects.
func TestModes(t *testing.T) {
	c := config{
		keys: 3000, value: 100, cache: 1, writers: 2, seed: 1, phases: "load,idle,uniform,zipf,delete,refill", cold: 300,
		sample: time.Millisecond, idle: time.Millisecond, duration: 50 * time.Millisecond, rounds: 2, cycles: 2, settle: time.Millisecond,
	}
	for name, mode := range map[string]func(config) error{
		"phases": phases, "reopen": reopen, "cycles": cycles, "stall": stall, "scan hits": scanHits,
	} {
		t.Run(name, func(t *testing.T) {
			c.dir = t.TempDir()
			require.NoError(t, mode(c))
		})
	}
	c.dir, c.phases = t.TempDir(), "load,unload"
	require.ErrorContains(t, phases(c), "unload")
}

func TestDirectory(t *testing.T) {
	c := config{dir: t.TempDir() + "/new"}
	see := func(want bool) {
		_, err := os.Stat(c.dir)
		require.Equal(t, want, err == nil)
	}
	mkdir := func(c config) error { return os.MkdirAll(c.dir, 0o755) }
	require.NoError(t, c.inDir(mkdir))
	see(false)
	c.keep = true
	require.NoError(t, c.inDir(mkdir))
	see(true)
	c.keep = false
	require.NoError(t, c.inDir(mkdir))
	see(true) // it was there before
}

// Values that were not written under their key are told from those that were.
func TestRows(t *testing.T) {
	for _, size := range []int{16, 17, 100, 1000} {
		r := newRows(10, size)
		var room []byte
		value := r.appendValue(nil, 3, 7)
		require.Len(t, value, size)
		require.NoError(t, r.check(3, value, &room))
		require.NotEqual(t, value, r.appendValue(nil, 3, 8))
		if size >= 100 { // shorter ones have little room for what depends on the key
			require.Error(t, r.check(4, value, &room))
		}
		wrong := slices.Clone(value)
		wrong[size-1] ^= 1
		require.Error(t, r.check(3, wrong, &room))
		require.Error(t, r.check(3, value[:size-1], &room))
	}
	r := newRows(100, 16)
	for _, i := range []int{1, 31, 32, 99, 31} {
		r.noteSet(i)
	}
	require.True(t, r.has(31) && !r.has(30))
	require.EqualValues(t, 4*32, r.live())
	r.noteDelete(31)
	r.noteDelete(31)
	require.False(t, r.has(31))
	require.EqualValues(t, 3*32, r.live())
}

func TestHistogram(t *testing.T) {
	last := 0
	for d := time.Duration(0); d < time.Hour; d += 1 + d/100 {
		i := bucketOf(d)
		require.GreaterOrEqual(t, i, last)
		require.GreaterOrEqual(t, bucketEnd(i), d)
		require.LessOrEqual(t, bucketEnd(i), d+d/32)
		last = i
	}
	var a, b histogram
	for i := range 1000 {
		h := &a
		if i%2 == 0 {
			h = &b
		}
		h.record(time.Duration(i+1) * time.Microsecond)
	}
	a.add(&b)
	require.EqualValues(t, 1000, a.count)
	require.Equal(t, time.Millisecond, a.quantile(1))
	require.InEpsilon(t, 500e3, float64(a.quantile(.5)), 1./32)
	require.InEpsilon(t, 999e3, float64(a.quantile(.999)), 1./32)
}

// The ranks come as often as the law says.
func TestZipf(t *testing.T) {
	const n, draws = 1000, 1_000_000
	z := newZipf(n, 0.99)
	var seen [n]int
	for i := range draws {
		seen[z.rank(mix(uint64(i)+1))]++
	}
	for _, rank := range []int{0, 1, 2, 10, 100} {
		want := draws / (z.zeta * math.Pow(float64(rank+1), 0.99))
		// The method draws the ranks from the third on by a continuous curve.
		require.InEpsilon(t, want, float64(seen[rank]), 0.35, "rank %d", rank)
	}
	last := 0
	for _, count := range seen[n/2:] {
		last += count
	}
	require.InEpsilon(t, draws*(1-zetaOf(n/2)/z.zeta), float64(last), 0.1, "the rarer half")
}

func zetaOf(n int) (sum float64) {
	for i := 1; i <= n; i++ {
		sum += math.Pow(float64(i), -0.99)
	}
	return sum
}
