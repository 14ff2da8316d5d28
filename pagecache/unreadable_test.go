package pagecache

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// TestUnreadableSnapshotIsNamed: if page-table snapshots cannot be read and the
// log alone does not reach back far enough, the error says so and not only that
// segments are missing, which it did.
func TestUnreadableSnapshotIsNamed(t *testing.T) {
	mem := vfs.NewMem()
	g := &goldenStore{T: t}
	g.open(mem)
	pid, _, err := g.cache.Allocate([]byte("x"))
	require.NoError(t, err)
	first := g.cache.log.Segments()[0].Base
	for g.cache.log.Segments()[0].Base == first {
		g.fill(pid)
		require.NoError(t, g.cache.writeCheckpoint())
	}
	require.NoError(t, g.cache.Close())
	_, err = Open(tiny(vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpOpen && strings.HasSuffix(op.Name, ".snap") {
			return syscall.EIO
		}
		return nil
	}), stringPages{}))
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, err, log.ErrCorrupt)
	g.open(mem)
	require.NoError(t, g.cache.Close())
}

// TestSnapshotAndSegmentLost: if the newest page-table snapshot cannot be read and
// the header of the newest segment neither, then that segment is not taken for one
// that a crash left before it held anything: the snapshot may have known that it
// was durable. It was, and an older state was shown.
func TestSnapshotAndSegmentLost(t *testing.T) {
	mem := vfs.NewMem()
	g := &goldenStore{T: t}
	g.open(mem)
	pid, _, err := g.cache.Allocate([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, g.cache.Sync())
	require.NoError(t, g.cache.writeCheckpoint())
	require.NoError(t, g.cache.Close())
	g.open(mem)
	key, err := g.cache.keyOf(pid)
	require.NoError(t, err)
	_, err = g.cache.Merge(pid, key, []byte("y"))
	require.NoError(t, err)
	require.NoError(t, g.cache.Close())
	names, err := mem.ReadDir("store")
	require.NoError(t, err)
	var snapshot, segment string
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".snap"):
			snapshot = name
		case strings.HasSuffix(name, ".seg"):
			segment = name
		}
	}
	open := func(damaged ...string) error {
		fs := mem.CrashClone(0)
		for _, name := range damaged {
			file, err := fs.OpenFile("store/"+name, os.O_RDWR, 0)
			require.NoError(t, err)
			size, err := file.Size()
			require.NoError(t, err)
			_, err = file.WriteAt(bytes.Repeat([]byte("lost"), int(size+3)/4)[:size], 0)
			require.NoError(t, err)
			require.NoError(t, file.Close())
		}
		c, err := Open(tiny(fs, stringPages{}))
		if err != nil {
			return err
		}
		page, _, err := c.Get(pid)
		require.NoError(t, err)
		require.Equal(t, "xy", string(page))
		return c.Close()
	}
	require.NoError(t, open())
	require.NoError(t, open(snapshot), "an older one serves")
	require.ErrorIs(t, open(segment), log.ErrCorrupt)
	require.ErrorIs(t, open(segment, snapshot), log.ErrCorrupt)
}
