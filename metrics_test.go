package db

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBuckets(t *testing.T) {
	last := 0
	for ns := uint64(0); ns < 1<<41; ns += 1 + ns/7 {
		index := bucketOf(ns)
		require.GreaterOrEqual(t, index, last, ns)
		require.Less(t, index, histogramBuckets)
		last = index
		if ns < 1<<40 {
			require.Greater(t, bucketEnd(index), ns)
			require.LessOrEqual(t, bucketEnd(index), ns+max(1, ns/4), ns)
		}
	}
	require.Equal(t, histogramBuckets-1, bucketOf(1<<63))
}

func TestLatency(t *testing.T) {
	var h histogram
	require.Zero(t, h.read().Mean())
	require.Zero(t, h.read().Quantile(0.5))
	for i := 1; i <= 1000; i++ {
		h.record(time.Duration(i) * time.Microsecond)
	}
	l := h.read()
	require.EqualValues(t, 1000, l.Samples)
	require.Equal(t, 1000*time.Microsecond, l.Max)
	require.InDelta(t, 500, l.Mean().Microseconds(), 1)
	for _, q := range []float64{-1, 0, 0.01, 0.5, 0.9, 0.99, 1, 2} {
		exact := min(max(q*1000, 1), 1000)
		got := float64(l.Quantile(q)) / 1000
		require.GreaterOrEqual(t, got, exact, "q %v", q)
		require.LessOrEqual(t, got, exact*1.26, "q %v", q)
	}
	h.record(-1)
	require.EqualValues(t, 1001, h.read().Samples)
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "ab": "ac", "a\xff": "b", "a\xff\xff": "b", "\x00": "\x01"} {
		given := []byte(prefix)
		require.Equal(t, want, string(prefixEnd(given)))
		require.Equal(t, prefix, string(given))
	}
	for _, prefix := range []string{"", "\xff", "\xff\xff"} {
		require.Nil(t, prefixEnd([]byte(prefix)))
	}
}
