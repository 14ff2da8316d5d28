package workload

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Values that were not written under their key are told from those that were.
func TestRows(t *testing.T) {
	for _, size := range []int{16, 17, 100, 1000} {
		r := NewRows(10, size)
		var room []byte
		value := r.AppendValue(nil, 3, 7)
		require.Len(t, value, size)
		require.NoError(t, r.Check(3, value, &room))
		require.NotEqual(t, value, r.AppendValue(nil, 3, 8))
		if size >= 100 { // shorter ones have little room for what depends on the key
			require.Error(t, r.Check(4, value, &room))
		}
		wrong := slices.Clone(value)
		wrong[size-1] ^= 1
		require.Error(t, r.Check(3, wrong, &room))
		require.Error(t, r.Check(3, value[:size-1], &room))
	}
	r := NewRows(100, 16)
	for _, i := range []int{1, 31, 32, 99, 31} {
		r.NoteSet(i)
	}
	require.True(t, r.Has(31) && !r.Has(30))
	require.EqualValues(t, 4*32, r.Live())
	r.NoteDelete(31)
	r.NoteDelete(31)
	require.False(t, r.Has(31))
	require.EqualValues(t, 3*32, r.Live())
}

// A key says which one it is, and keys do not repeat.
func TestKeys(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 10_000 {
		key := AppendKey(nil, i*12345)
		require.Len(t, key, KeyBytes)
		require.Equal(t, i*12345, KeyIndex(key))
		require.False(t, seen[string(key)])
		seen[string(key)] = true
	}
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
	var a, b Histogram
	for i := range 1000 {
		h := &a
		if i%2 == 0 {
			h = &b
		}
		h.Record(time.Duration(i+1) * time.Microsecond)
	}
	a.Add(&b)
	require.EqualValues(t, 1000, a.Count)
	require.Equal(t, time.Millisecond, a.Quantile(1))
	require.InEpsilon(t, 500e3, float64(a.Quantile(.5)), 1./32)
	require.InEpsilon(t, 999e3, float64(a.Quantile(.999)), 1./32)
}

// The ranks come as often as the law says.
func TestZipf(t *testing.T) {
	const n, draws = 1000, 1_000_000
	z := NewZipf(n, 0.99)
	var seen [n]int
	for i := range draws {
		seen[z.Rank(Mix(uint64(i)+1))]++
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

// What the system tells of the process and of files is about what happened.
func TestProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere nothing is told")
	}
	ResetPeak()
	before, written := PeakBytes(), WrittenBytes()
	block := bytes.Repeat([]byte("block"), 4<<20)
	require.Greater(t, PeakBytes(), before+int64(len(block))/2)
	require.Greater(t, ResidentBytes(), int64(len(block)))
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/b/c"), block, 0o644))
	size, err := DiskBytes(dir)
	require.NoError(t, err)
	require.InEpsilon(t, len(block), size, 0.1)
	require.InEpsilon(t, len(block), WrittenBytes()-written, 0.1)

	// A small write in the middle of a large file counts as what it is.
	f, err := os.OpenFile(filepath.Join(dir, "a/b/c"), os.O_RDWR, 0)
	require.NoError(t, err)
	for i := range int64(10) {
		written = WrittenBytes()
		_, err = f.WriteAt(block[:100], i<<20+50)
		require.NoError(t, err)
		require.Less(t, WrittenBytes()-written, int64(4096))
	}
	require.NoError(t, f.Close())
}
