package db

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pulkdb/db/tree"
)

// ErrBackupOrder: an incremental backup does not follow what it is put on, or is asked
// for since a backup of another store.
var ErrBackupOrder = errors.New("db: not the backup that this one follows")

// A BackupPoint names a backup: the store and the moment of it, as text without spaces. A
// later backup of the same store can be made since it, also by another process.
type BackupPoint string

// BackupOptions say how to make a backup.
type BackupOptions struct {
	// Since, if not empty, asks for an incremental backup, which has what has changed
	// since that one. The point is that of a backup of this store, full or incremental.
	Since BackupPoint

	// Progress, if not nil, is called often while BackupWith runs, by its goroutine, with
	// the rows so far and the bytes of their keys and values. It must return soon.
	Progress func(rows, bytes int64)
}

// A BackupReport says what a backup holds.
type BackupReport struct {
	Point   BackupPoint // of this backup
	Rows    int64       // keys in it
	Bytes   int64       // of their keys and values
	Written int64       // bytes written to w
}

// Backup writes all that the store holds at one moment, that of the call, to w, and
// returns how many bytes that were. Restore makes a store of them.
//
// Reads and writes go on meanwhile, and it holds nobody up. It costs what a Snapshot
// costs that is open as long, a scan, and one small write that makes all durable that is
// in the backup: what Restore brings back is never more than the store has after a crash.
// It holds half a MiB in memory at a time, and large values in parts, but for those with
// merge operands that are not folded yet. What it writes has checksums; it is neither
// compressed nor encrypted.
//
// Errors: ctx's, w's, wrapped, ErrClosed, what reading and writing the store fail with;
// ErrNoMerger, or a *MergeError, if there are operands that cannot be folded. A store that
// answers writes with ErrFailed has to be opened again, read-only if nothing else works.
// After an error Restore refuses what was written.
func (d *DB) Backup(ctx context.Context, w io.Writer) (written int64, err error) {
	report, err := d.BackupWith(ctx, w, BackupOptions{})
	return report.Written, err
}

// BackupWith is Backup with options. It fails with ErrInvalidOptions if Since is no
// BackupPoint, and with ErrBackupOrder if it is not one of this store.
//
// An incremental backup has the keys of all leaves in which something has changed: a few
// changes that are spread over all keys make it as large as a full one. It looks at every
// leaf, and reads those. Put behind the one that it follows, and any number in a row, it
// makes the stream that Restore takes.
//
// A store that was restored, or salvaged, is another store: its first backup is a full
// one. So it is with a copy of the files that goes on beside the first: pulk cannot tell
// the two apart.
func (d *DB) BackupWith(ctx context.Context, w io.Writer, o BackupOptions) (BackupReport, error) {
	b := &backup{db: d, ctx: ctx, w: newBackupWriter(w), progress: o.Progress}
	err := b.run(o.Since)
	b.report.Written = b.w.written
	if err != nil {
		return BackupReport{Written: b.w.written}, d.translate(err)
	}
	return b.report, nil
}

// A backup is one under way.
type backup struct {
	db       *DB
	ctx      context.Context
	w        *backupWriter
	snapshot *Snapshot
	progress func(rows, bytes int64)
	report   BackupReport
}

func (b *backup) run(since BackupPoint) error {
	if err := b.db.checkRead(nil); err != nil {
		return err
	}
	if err := b.ctx.Err(); err != nil {
		return err
	}
	h := backupHeader{store: b.db.tree.StoreID()}
	if since != "" {
		p, err := parsePoint(since)
		if err != nil {
			return err
		}
		if p.store != h.store || p.stamp >= b.db.tree.Clock() {
			return fmt.Errorf("%w: since %s", ErrBackupOrder, since)
		}
		h.incremental, h.since = true, p.stamp
	}
	b.snapshot = b.db.Snapshot()
	defer b.snapshot.Close()
	if b.snapshot.moment == nil {
		return ErrClosed
	}
	var err error
	if h.stamp, err = b.db.tree.SealMoment(b.snapshot.moment); err != nil {
		return err
	}
	b.report.Point = point{h.store, h.stamp}.text()
	if err := b.w.header(h); err != nil {
		return err
	}
	if !h.incremental {
		err = b.span(nil, nil)
	} else {
		err = b.changed(h.since)
	}
	if err != nil {
		return err
	}
	if err := b.w.end(b.report.Rows, b.report.Bytes); err != nil {
		return err
	}
	if b.progress != nil {
		b.progress(b.report.Rows, b.report.Bytes)
	}
	return nil
}

// changed writes the ranges in which something has changed.
func (b *backup) changed(since uint64) error {
	key, from, open := []byte{}, []byte(nil), false
	for {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		hi, last, changed, err := b.db.tree.ChangedAfter(key, since)
		if err != nil {
			return err
		}
		switch {
		case changed && !open:
			from, open = key, true
		case !changed && open:
			open = false
			if err := b.span(from, key); err != nil {
				return err
			}
		}
		if last {
			break
		}
		key = hi
	}
	if !open {
		return nil
	}
	return b.span(from, nil)
}

// span writes that [lo, hi) has the rows of the snapshot and no others.
func (b *backup) span(lo, hi []byte) error {
	if err := b.w.span(lo, hi); err != nil {
		return err
	}
	it := b.snapshot.Scan(lo, hi)
	defer it.Close()
	for it.Next() {
		if err := b.row(it); err != nil {
			return err
		}
	}
	return it.Err()
}

// backupLarge is from which length on a value is written in parts.
const backupLarge = 256 << 10

func (b *backup) row(it *Iterator) error {
	size := int64(0)
	if n, ok := it.rows.(*tree.Iterator).OwnPages(); ok && n > backupLarge {
		r, err := b.snapshot.GetReader(it.Key())
		if err != nil {
			return err
		}
		defer r.Close()
		if err := b.w.large(b.ctx, it.Key(), r, n); err != nil {
			return err
		}
		size = n
	} else {
		value, err := it.Value(), it.Err()
		if err != nil {
			return err
		}
		// One that operands make may be as long.
		if size = int64(len(value)); size > backupLarge {
			err = b.w.large(b.ctx, it.Key(), bytes.NewReader(value), size)
		} else {
			err = b.w.row(b.ctx, it.Key(), value)
		}
		if err != nil {
			return err
		}
	}
	b.report.Rows++
	b.report.Bytes += int64(len(it.Key())) + size
	if b.progress != nil && (b.report.Rows%backupProgressRows == 0 || size > backupLarge) {
		b.progress(b.report.Rows, b.report.Bytes)
	}
	return nil
}

const backupProgressRows = 1 << 10

// A point is a BackupPoint taken apart.
type point struct {
	store [16]byte
	stamp uint64
}

const pointPrefix = "pulk1-"

func (p point) text() BackupPoint {
	return BackupPoint(fmt.Sprintf("%s%x-%d", pointPrefix, p.store, p.stamp))
}

func parsePoint(s BackupPoint) (p point, err error) {
	wrong := fmt.Errorf("%w: %q is no BackupPoint", ErrInvalidOptions, string(s))
	rest, ok := strings.CutPrefix(string(s), pointPrefix)
	if !ok {
		return p, wrong
	}
	id, stamp, ok := strings.Cut(rest, "-")
	store, err := hex.DecodeString(id)
	if !ok || err != nil || len(store) != len(p.store) {
		return p, wrong
	}
	copy(p.store[:], store)
	if p.stamp, err = strconv.ParseUint(stamp, 10, 64); err != nil || (point{p.store, p.stamp}).text() != s {
		return p, wrong
	}
	return p, nil
}

// before reports whether key lies before the bound lo of a range.
func before(key, lo []byte) bool { return bytes.Compare(key, lo) < 0 }
