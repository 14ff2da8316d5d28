package db

import "github.com/pulkdb/db/tree"

// Minute returns a copy of o with everything as small as can be, so that a
// hundred writes fill segments, write page-table snapshots and are cleaned.
func (o Options) Minute() *Options {
	return o.Tiny().tuned(func(t *tree.Options) {
		t.ChunkBytes = 200
		t.Cache.SegmentBytes = 8 << 10
		t.Cache.BufferBytes = 2 << 10
		t.Cache.SnapshotBytes = 6 << 10
	})
}
