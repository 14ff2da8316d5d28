package pagecache

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A goldenStore is a cache whose goroutines do nothing unasked.
type goldenStore struct {
	*testing.T
	trace crashtest.Trace
	cache *Cache
}

func (g *goldenStore) open(fs vfs.FS) {
	o := tiny(fs, stringPages{})
	o.BufferBytes, o.SnapshotBytes, o.CacheSize = 8<<10, 1<<30, 16<<20
	g.cache = mustOpen(g, o)
	close(g.cache.stop)
	g.cache.background.Wait()
	g.cache.stop = make(chan struct{})
}

// fill writes until the log is in its next segment, and syncs each write.
func (g *goldenStore) fill(pid PID) {
	first := g.cache.log.SegmentOf(g.cache.log.Tail(log.Fresh))
	for g.cache.log.SegmentOf(g.cache.log.Tail(log.Fresh)) == first {
		_, key, err := g.cache.Get(pid)
		require.NoError(g, err)
		_, err = g.cache.Set(pid, key, []byte(strings.Repeat("x", 4000)))
		require.NoError(g, err)
		require.NoError(g, g.cache.Sync())
	}
}

// TestFileOperations fixes which file operations a store makes, and in what order:
// testdata/operations.golden.
func TestFileOperations(t *testing.T) {
	if filepath.Separator != '/' {
		t.Skip("names are written otherwise")
	}
	g := &goldenStore{T: t}
	mem := vfs.NewMem()
	fs := vfs.NewFault(mem, g.trace.Note)

	g.trace.Section("open a new store")
	g.open(fs)

	g.trace.Section("first page")
	pid, _, err := g.cache.Allocate([]byte("first"))
	require.NoError(t, err)
	still, _, err := g.cache.Allocate([]byte("still"))
	require.NoError(t, err)

	g.trace.Section("sync")
	require.NoError(t, g.cache.Sync())

	g.trace.Section("page-table snapshot")
	require.NoError(t, g.cache.writeCheckpoint())

	g.trace.Section("a segment full of changes, each synced")
	g.fill(pid)

	g.trace.Section("clean that segment: what is live in it is written again, and not synced yet")
	segments := g.cache.log.Segments()
	g.cache.clean.mu.Lock()
	require.NoError(t, g.cache.cleanSegment(segments[0].Base))
	g.cache.clean.mu.Unlock()

	g.trace.Section("second page-table snapshot: what it refers to is durable before it is; the first still needs the segment")
	require.NoError(t, g.cache.writeCheckpoint())

	g.trace.Section("third page-table snapshot: the segment goes")
	g.fill(pid)
	require.NoError(t, g.cache.writeCheckpoint())

	g.trace.Section("the log goes on in its file")
	g.fill(pid)
	g.fill(pid)

	g.trace.Section("close")
	require.NoError(t, g.cache.Close())

	g.trace.Section("open")
	g.open(fs)
	page, _, err := g.cache.Get(still)
	require.NoError(t, err)
	require.Equal(t, "still", string(page))

	g.trace.Section("close, nothing having changed")
	require.NoError(t, g.cache.Close())
	g.trace.Golden(t, "operations.golden")
}
