package pagecache

import (
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
