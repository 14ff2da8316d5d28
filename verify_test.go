package db_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// When a byte of an update in the log of a closed store is another one, Open or Verify
// says so, but for a few that count no more: those in segments that are reused as the
// store is opened; and those at the end of a segment that was the last of its opening and
// whose successor was reused, with what said where it ends: damage may pass for that end.
// (What is live is found always, which is TestBadBytes.)
func TestVerifyFindsDamage(t *testing.T) {
	open := func(fs vfs.FS) (*db.DB, error) {
		o := badOptions()
		return db.Open(imageDir, o.Minute().On(fs))
	}
	fs := vfs.NewMem()
	for opening := range 8 {
		d, err := open(fs)
		require.NoError(t, err)
		for i := range []int{500, 20, 300, 5, 5, 400, 100, 30}[opening] {
			key := fmt.Appendf(nil, "%03d", i*7%400)
			require.NoError(t, d.Set(key, fmt.Appendf(nil, "%d is the value of %s", i, key)))
		}
		require.NoError(t, d.Verify(context.Background()))
		require.NoError(t, d.Close())
	}
	x := takeImage(t, fs)
	// What stands behind the end of a segment is of an earlier life of its file.
	salvager, err := log.OpenSalvager(fs, imageDir)
	require.NoError(t, err)
	var updates []log.Position
	require.NoError(t, salvager.Scan(func(u log.Salvaged) error {
		updates = append(updates, u.Position)
		return nil
	}))
	require.NoError(t, salvager.Close())

	tried, opened, missed := 0, 0, 0
	for n := 0; n < len(updates); n += 1 + len(updates)/300 {
		p := updates[n]
		base := p.LSN / minuteSegmentBytes * minuteSegmentBytes
		name, at := fmt.Sprintf("%016x.seg", uint64(base)), int(p.LSN-base)+n%int(p.Size)
		data := slices.Clone(x.files[name])
		data[at] ^= 0x55
		tried++
		d, err := open(x.with(name, data).put(t))
		if err != nil {
			continue
		}
		opened++
		err = d.Verify(context.Background())
		_ = d.Close()
		var corrupt *db.CorruptError
		if err == nil {
			missed++
			continue
		}
		require.ErrorAs(t, err, &corrupt, "%s at %d", name, at)
		require.NotEmpty(t, corrupt.File)
		require.ErrorIs(t, err, db.ErrCorrupt)
	}
	t.Logf("%d bytes of %d updates flipped, %d found by Open, %d not found", tried, len(updates), tried-opened, missed)
	require.Greater(t, tried, 50)
	require.Less(t, missed, tried/4)
}

const minuteSegmentBytes = 8 << 10

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

// TestOnlySegmentLost: the error named a file that never was, since no other of the stream
// was left.
func TestOnlySegmentLost(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	fill(t, d, "a")
	require.NoError(t, d.Close())
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	for _, lose := range []func() error{
		func() error { return os.Truncate(names[0], 0) },
		func() error { return os.Remove(names[0]) },
	} {
		require.NoError(t, lose())
		_, err = db.Open(dir, nil)
		var corrupt *db.CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, filepath.Base(names[0]), corrupt.File)
	}
}
