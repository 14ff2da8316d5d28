package db

import "context"

// VerifyOptions say how to verify a store.
type VerifyOptions struct {
	// Progress, if not nil, is called often while VerifyWith runs, by one goroutine:
	// done of total bytes are dealt with, about. It must return soon.
	Progress func(done, total int64)
}

// Verify checks the whole store: the checksum of every record and of the newest
// page-table snapshot, that every page can be read and is in the right version, that
// keys are in order and in the pages where they belong, that every part of every large
// value is there, and that every page in use is named by something. It returns the
// first thing that is wrong: a *CorruptError, with the file and offset where there is
// one place.
//
// Reads and writes go on meanwhile, and the cache keeps what is in use. All of the
// store is read, from its files; pages that many deletes have thinned are not joined
// until Verify is done. Memory: some 100 bytes for each page, which is 1 to 2% of
// the data.
//
// Verify returns nil when the store is whole, ctx's error when that ends it, and
// ErrClosed.
func (d *DB) Verify(ctx context.Context) error { return d.VerifyWith(ctx, VerifyOptions{}) }

// VerifyWith is Verify with options.
func (d *DB) VerifyWith(ctx context.Context, o VerifyOptions) error {
	return d.translate(d.tree.Verify(ctx, o.Progress))
}
