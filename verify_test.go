package db_test

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// When a byte of a segment of a closed store is another one, Open or Verify says so, but
// for a few that nobody ever reads, as those that fill a header. (The end of a segment is
// not known any more when the next one was reused; then damage behind all that is live in
// it may pass for that. So a quarter is allowed, and what is live is TestBadBytes's.)
func TestVerifyFindsDamage(t *testing.T) {
	open := func(fs vfs.FS) (*db.DB, error) {
		o := badOptions()
		return db.Open(imageDir, o.Minute().On(fs))
	}
	fs := vfs.NewMem()
	d, err := open(fs)
	require.NoError(t, err)
	for i := range 1500 {
		key := fmt.Appendf(nil, "%03d", i*7%400)
		require.NoError(t, d.Set(key, fmt.Appendf(nil, "%d is the value of %s", i, key)))
	}
	require.NoError(t, d.Verify(context.Background()))
	require.NoError(t, d.Close())
	x := takeImage(t, fs)

	tried, found, opened := 0, 0, 0
	for n, name := range x.names() {
		if path.Ext(name) != ".seg" {
			continue
		}
		end := len(bytes.TrimRight(x.files[name], "\x00"))
		for at := 97 * n % 200; at < end; at += 211 {
			data := slices.Clone(x.files[name])
			data[at] ^= 0x55
			tried++
			d, err := open(x.with(name, data).put(t))
			if err != nil {
				found++
				continue
			}
			opened++
			if err := d.Verify(context.Background()); err != nil {
				var corrupt *db.CorruptError
				require.ErrorAs(t, err, &corrupt, "%s at %d", name, at)
				require.NotEmpty(t, corrupt.File)
				require.ErrorIs(t, err, db.ErrCorrupt)
				found++
			} else {
				t.Logf("%s: byte %d of %d is not found", name, at, end)
			}
			_ = d.Close()
		}
	}
	t.Logf("%d of %d flipped bytes of segments found, %d of them by Open", found, tried, tried-opened)
	require.Greater(t, found, tried*3/4)
}

func TestVerifyInEveryKindOfStore(t *testing.T) {
	ctx := context.Background()
	memory, err := db.Open("", &db.Options{InMemory: true})
	require.NoError(t, err)
	dir := t.TempDir()
	disk, err := db.Open(dir, &db.Options{Logger: quiet().Logger})
	require.NoError(t, err)
	for i := range 2000 {
		require.NoError(t, memory.Set(fmt.Appendf(nil, "%04d", i), make([]byte, 100)))
	}
	b := disk.NewBatch()
	for i := range 2000 {
		require.NoError(t, b.Set(fmt.Appendf(nil, "%04d", i), make([]byte, 100)))
	}
	require.NoError(t, b.Commit())
	require.NoError(t, memory.Verify(ctx))
	last := int64(0)
	require.NoError(t, disk.VerifyWith(ctx, db.VerifyOptions{Progress: func(done, total int64) {
		require.LessOrEqual(t, done, total)
		last = done
	}}))
	require.NotZero(t, last)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, disk.Verify(ended), context.Canceled)
	require.NoError(t, memory.Close())
	require.NoError(t, disk.Close())
	require.ErrorIs(t, disk.Verify(ctx), db.ErrClosed)

	reader, err := db.Open(dir, &db.Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, reader.Verify(ctx))
	require.NoError(t, reader.Close())
}
