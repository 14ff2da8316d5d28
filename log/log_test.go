package log

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// tiny are options that make every boundary frequent.
func tiny(fs vfs.FS) Options {
	return Options{Dir: "d", FS: fs, SegmentBytes: 4096, BufferBytes: 512, Buffers: 4}
}

// a delivered is an update as Replay or Read gave it, with its payload copied.
type delivered struct {
	Update
	Position Position
}

func replayAll(t testing.TB, l *Log, from Marks) []delivered {
	t.Helper()
	var list []delivered
	_, err := l.Replay(from, collect(&list))
	require.NoError(t, err)
	return list
}

func collect(list *[]delivered) func(Update, Position) error {
	return func(u Update, p Position) error {
		u.Payload = append([]byte{}, u.Payload...)
		*list = append(*list, delivered{u, p})
		return nil
	}
}

// open opens, replays and starts.
func open(t testing.TB, o Options) (*Log, []delivered) {
	t.Helper()
	l, err := Open(o)
	require.NoError(t, err)
	list := replayAll(t, l, Marks{})
	require.NoError(t, l.Start())
	return l, list
}

func write(t testing.TB, l *Log, s Stream, u Update) (Position, LSN) {
	t.Helper()
	r, err := l.Reserve(s, UpdateSize(u.PID, u.Version, len(u.Payload)))
	require.NoError(t, err)
	p := r.Append(u)
	return p, r.Complete(u.Stamp)
}

func testUpdate(i int) Update {
	return Update{PID: PID(i % 7), Version: uint64(i), Stamp: uint64(i) * 3, Kind: KindAppend, Payload: []byte(fmt.Sprintf("payload %d", i))}
}

func TestWriteReadReopen(t *testing.T) {
	fs := vfs.NewMem()
	l, list := open(t, tiny(fs))
	require.Empty(t, list)
	var want []delivered
	for i := range 1000 {
		u := testUpdate(i)
		p, end := write(t, l, Stream(i%5/4), u)
		want = append(want, delivered{u, p})
		if i%10 == 0 {
			require.NoError(t, l.WaitDurable(Stream(i%5/4), end))
			require.GreaterOrEqual(t, l.Durable(Stream(i%5/4)), end)
		}
		require.NoError(t, l.Throttle())
	}
	for _, w := range want {
		u, _, err := l.Read(w.Position, nil)
		require.NoError(t, err)
		require.Equal(t, w.Update, u)
	}
	require.NoError(t, l.Close())
	l, list = open(t, tiny(fs))
	require.ElementsMatch(t, want, list)
	for i := 1; i < len(list); i++ {
		require.Less(t, list[i-1].Position.LSN, list[i].Position.LSN)
	}
	for _, w := range want {
		u, _, err := l.Read(w.Position, nil)
		require.NoError(t, err)
		require.Equal(t, w.Update, u)
	}
	require.NoError(t, l.Close())
}
