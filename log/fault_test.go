package log

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

var errInjected = errors.New("injected")

// faultWorkload does a bit of everything. It returns the end of what was
// acknowledged as durable, per stream, and what was written.
func faultWorkload(t *testing.T, fs vfs.FS) (durable [streams]LSN, written []delivered) {
	o := tiny(fs)
	o.SegmentBytes = 1024
	l, err := Open(o)
	if err != nil {
		require.ErrorIs(t, err, errInjected)
		return durable, nil
	}
	defer func() {
		err := l.Close()
		if l.failure.Load() != nil {
			require.ErrorIs(t, err, errInjected)
		}
	}()
	if _, err := l.Replay(Marks{}, func(Update, Position) error { return nil }); err != nil {
		require.ErrorIs(t, err, errInjected)
		return durable, nil
	}
	if err := l.Start(); err != nil {
		require.ErrorIs(t, err, errInjected)
		return durable, nil
	}
	for i := range 60 {
		s := Stream(i % 4 / 3)
		u := testUpdate(i)
		r, err := l.Reserve(s, UpdateSize(u.PID, u.Version, len(u.Payload)))
		if err != nil {
			require.ErrorIs(t, err, ErrFailed)
			require.ErrorIs(t, err, errInjected)
			require.ErrorIs(t, l.Throttle(), ErrFailed)
			require.ErrorIs(t, l.Sync(), ErrFailed)
			require.ErrorIs(t, l.Err(), ErrFailed)
			break
		}
		p := r.Append(u)
		end := r.Complete(u.Stamp)
		written = append(written, delivered{u, p})
		if i%3 == 0 {
			if err := l.WaitDurable(s, end); err != nil {
				require.ErrorIs(t, err, ErrFailed)
				require.ErrorIs(t, err, errInjected)
				require.Less(t, l.Durable(s), end)
			} else {
				durable[s] = end
			}
		}
	}
	for _, w := range written {
		u, _, err := l.Read(w.Position, nil)
		if err == nil {
			require.Equal(t, w.Update, u)
		} else {
			require.ErrorIs(t, err, errInjected)
		}
	}
	return durable, written
}

// TestFault fails the i-th file operation, and once it and all that follow
// (L5); then the power fails, and what was acknowledged is there.
func TestFault(t *testing.T) {
	for _, forever := range []bool{false, true} {
		for i := int64(0); ; i++ {
			mem := vfs.NewMem()
			fault := vfs.NewFault(mem, func(op vfs.Op) error {
				if op.Index == i || forever && op.Index > i {
					return errInjected
				}
				return nil
			})
			durable, written := faultWorkload(t, fault)
			require.Zero(t, fault.OpenFiles(), "files left open")
			if lock, err := mem.Lock("d/"+lockName, false); err == nil {
				require.NoError(t, lock.Close())
			} else {
				require.ErrorIs(t, err, os.ErrNotExist)
			}
			l, err := Open(tiny(mem.CrashClone(i)))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNotStore) {
				require.Empty(t, written)
			} else {
				require.NoError(t, err, "operation %d", i)
				checkDurable(t, l, written, durable)
				require.NoError(t, l.Start())
				require.NoError(t, l.Close())
			}
			if fault.Count() <= i {
				break
			}
		}
	}
}

func checkDurable(t *testing.T, l *Log, written []delivered, durable [streams]LSN) {
	got := map[Position]Update{}
	for _, d := range replayAll(t, l, Marks{}) {
		got[d.Position] = d.Update
	}
	n := 0
	for _, w := range written {
		s := l.segmentAt(w.Position.LSN)
		if u, ok := got[w.Position]; ok {
			require.Equal(t, w.Update, u)
			n++
		} else if s != nil {
			require.GreaterOrEqual(t, w.Position.LSN, durable[s.stream])
		} else {
			require.GreaterOrEqual(t, w.Position.LSN, max(durable[Fresh], durable[Survivors]))
		}
	}
	require.Len(t, got, n, "more than was written")
}

// TestNoSyncAfterFailure: after a failed sync there is no other (L5).
func TestNoSyncAfterFailure(t *testing.T) {
	failed, after := false, 0
	fs := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if failed && (op.Kind == vfs.OpSync || op.Kind == vfs.OpWrite || op.Kind == vfs.OpSyncDir) {
			after++
		}
		if op.Kind == vfs.OpSync && len(op.Name) > 4 && op.Name[len(op.Name)-4:] == ".seg" {
			failed = true
			return errInjected
		}
		return nil
	})
	l, _ := open(t, tiny(fs))
	p, end := write(t, l, Fresh, testUpdate(1))
	require.ErrorIs(t, l.WaitDurable(Fresh, end), errInjected)
	require.ErrorIs(t, l.WaitDurable(Fresh, end), ErrFailed)
	_, err := l.Reserve(Fresh, 100)
	require.ErrorIs(t, err, ErrFailed)
	u, _, err := l.Read(p, nil)
	require.NoError(t, err)
	require.Equal(t, testUpdate(1), u)
	require.ErrorIs(t, l.Close(), ErrFailed)
	require.Zero(t, after)
}

// TestParentsCannotBeSynced: a new store below a mount point was refused if the file
// system around that has no sync of directories, as autofs and squashfs have none.
func TestParentsCannotBeSynced(t *testing.T) {
	const dir = "/home/user/store"
	for _, parent := range []string{"/", "/home"} {
		asked := false
		v := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
			if op.Kind == vfs.OpSyncDir && op.Name == parent {
				asked = true
				return &os.PathError{Op: "sync", Path: parent, Err: syscall.EINVAL}
			}
			return nil
		})
		o := tiny(v)
		o.Dir = dir
		l, _ := open(t, o)
		require.True(t, asked)
		require.NoError(t, l.Close())
	}
	v := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir && op.Name == dir {
			return &os.PathError{Op: "sync", Path: dir, Err: syscall.EINVAL}
		}
		return nil
	})
	o := tiny(v)
	o.Dir = dir
	_, err := Open(o)
	require.ErrorIs(t, err, syscall.EINVAL, "its own names have to be durable")
	require.Zero(t, v.OpenFiles())
}
