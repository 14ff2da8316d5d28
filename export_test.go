package db

import (
	"context"
	"io"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/tree"
)

// Tiny returns a copy of o with pages, segments and buffers so small that
// every structural path runs often.
func (o Options) Tiny() *Options {
	cacheSize := o.CacheSize
	return o.tuned(func(t *tree.Options) {
		t.MaxNodeBytes = 512
		t.ChunkBytes = 1 << 10
		t.Cache.SegmentBytes = 64 << 10
		t.Cache.BufferBytes = 16 << 10
		t.Cache.SnapshotBytes = 128 << 10
		t.Cache.CacheSize = max(cacheSize, 128<<10)
	})
}

// Spacious returns a copy of o with segments of the given size and pages so small
// that there are many of them.
func (o Options) Spacious(segmentBytes int) *Options {
	cacheSize := o.CacheSize
	return o.tuned(func(t *tree.Options) {
		t.MaxNodeBytes = 2 << 10
		t.Cache.SegmentBytes = segmentBytes
		t.Cache.BufferBytes = segmentBytes / 4
		t.Cache.CacheSize = cacheSize
	})
}

// On returns a copy of o whose store is in fsys.
func (o Options) On(fsys vfs.FS) *Options {
	return o.tuned(func(t *tree.Options) { t.Cache.FS = fsys })
}

// tuned returns a copy of o that is tuned once more.
func (o Options) tuned(more func(*tree.Options)) *Options {
	before := o.tune
	o.tune = func(t *tree.Options) {
		if before != nil {
			before(t)
		}
		more(t)
	}
	return &o
}

// RestoreInto is Restore into an empty store that is open.
func RestoreInto(ctx context.Context, d *DB, r io.Reader) error {
	x := &restore{ctx: ctx, into: d, r: newBackupReader(r), batch: d.NewBatch()}
	return x.run()
}

// Clock is the stamp of the next write.
func (d *DB) Clock() uint64 { return d.tree.Clock() }
