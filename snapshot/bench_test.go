package snapshot

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Both have 250,000 slots with three positions each, on the average.

func BenchmarkLoad(b *testing.B) {
	fs := newFS(b)
	slots := randomSlots(250_000, 3, 1)
	require.NoError(b, write(fs, headerOf(1), slots))
	info, err := List(fs, testDir)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, found, err := Load(fs, testDir, testStore, nil, Sink{})
		if err != nil || !found {
			b.Fatal(err, found)
		}
	}
	b.ReportMetric(float64(info[0].Bytes)/float64(len(slots)), "B/slot")
}

func BenchmarkWrite(b *testing.B) {
	slots := randomSlots(250_000, 3, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := write(newFS(b), headerOf(1), slots); err != nil {
			b.Fatal(err)
		}
	}
}
