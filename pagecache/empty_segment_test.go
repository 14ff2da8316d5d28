package pagecache

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// TestEmptySegmentAfterCrash: a crash leaves the first segment of the last opener
// with its header and no record. Until the stream goes on behind it its file stays,
// however often the store is opened and closed, since page-table snapshots state
// its end as durable.
func TestEmptySegmentAfterCrash(t *testing.T) {
	for _, contents := range []bool{false, true} {
		mem := vfs.NewMem()
		if contents {
			c := mustOpen(t, tiny(mem, stringPages{}))
			_, _, err := c.Allocate([]byte("page"))
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
		c := mustOpen(t, tiny(mem, stringPages{}))
		_, _, err := c.Allocate([]byte("lost"))
		require.NoError(t, err)
		require.NoError(t, c.Sync())
		crashed := mem.CrashClone(0)
		name := fmt.Sprintf("store/%016x.seg", uint64(c.log.SegmentOf(c.log.Tail(log.Fresh))))
		f, err := crashed.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(128)) // bytes of a header
		require.NoError(t, f.Sync())
		require.NoError(t, c.Close())
		for range 5 {
			c := mustOpen(t, tiny(crashed, stringPages{}))
			page, _, err := c.Get(1)
			if contents {
				require.NoError(t, err)
				require.Equal(t, "page", string(page))
			}
			require.NoError(t, c.Close())
		}
	}
}
