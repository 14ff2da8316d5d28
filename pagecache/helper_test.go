package pagecache

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
)

// stringPages is a materializer whose pages are strings; a delta is what to add.
// A base that begins with "root" carries recovery state: its next byte is the
// generation.
type stringPages struct{}

func (stringPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	for _, f := range m.Fragments {
		dst = append(dst, f.Data...)
	}
	return dst, nil
}

func (stringPages) Recover(base []byte) (Recovery, bool) {
	if len(base) < 5 || string(base[:4]) != "root" {
		return Recovery{}, false
	}
	return Recovery{Generation: uint64(base[4]), State: base[:4]}, true
}

func (stringPages) Keep(base []byte) bool { return len(base) > 4 && string(base[:4]) == "root" }

// counterPages is a second materializer: a page is a row of counters, a delta adds
// to one of them.
type counterPages struct{}

func (counterPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	dst = append(dst, m.Fragments[0].Data...)
	for _, f := range m.Fragments[1:] {
		if len(f.Data) != 12 {
			return nil, fmt.Errorf("delta of %d bytes", len(f.Data))
		}
		at := 8 * int(binary.LittleEndian.Uint32(f.Data))
		for len(dst) < at+8 {
			dst = append(dst, 0)
		}
		sum := binary.LittleEndian.Uint64(dst[at:]) + binary.LittleEndian.Uint64(f.Data[4:])
		binary.LittleEndian.PutUint64(dst[at:], sum)
	}
	return dst, nil
}

func (counterPages) Recover([]byte) (Recovery, bool) { return Recovery{}, false }

func addTo(counter int, n int64) []byte {
	d := binary.LittleEndian.AppendUint32(nil, uint32(counter))
	return binary.LittleEndian.AppendUint64(d, uint64(n))
}

func counterOf(page []byte, counter int) int64 {
	if len(page) < 8*counter+8 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(page[8*counter:]))
}

// tiny makes everything so small that every path runs.
func tiny(fs vfs.FS, m Materializer) Options {
	return Options{
		Dir: "store", FS: fs, Materializer: m,
		CacheSize: 96 << 10, MergeDeltas: 4, RewriteShare: 50, LoadReads: 3,
		SegmentBytes: 16 << 10, BufferBytes: 2 << 10, SnapshotBytes: 24 << 10,
	}
}

// pinned calls fn under a guard, and gives it up even if fn ends the test: Close waits
// for guards.
func pinned(c *Cache, fn func(g epoch.Guard)) {
	g := c.Pin()
	defer g.Unpin()
	fn(g)
}

func mustOpen(t testing.TB, o Options) *Cache {
	t.Helper()
	c, err := Open(o)
	require.NoError(t, err)
	return c
}

// evictAll evicts what can be evicted.
func (c *Cache) evictAll() {
	for range 4 {
		for range int(c.pids.max())/sweepPages + 2 {
			c.sweep(sweepRoundsMax)
		}
	}
}

// A switchable turns a fault on.
type switchable struct{ flag atomic.Bool }

func (s *switchable) set()     { s.flag.Store(true) }
func (s *switchable) on() bool { return s.flag.Load() }
