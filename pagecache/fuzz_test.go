package pagecache

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// FuzzDecompress decompresses what nobody may have compressed: it takes no more
// memory than a base may have, and what comes out survives compression.
func FuzzDecompress(f *testing.F) {
	k := newTestCodec(f, Zstd)
	for _, n := range []int{compressMin, 8 << 10, 200 << 10} {
		packed, ok := k.compress(mixedText(n))
		require.True(f, ok)
		f.Add(bytes.Clone(packed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const dst = "dst"
		out, err := k.appendDecompressed([]byte(dst), data)
		if err != nil {
			require.Equal(t, dst, string(out))
			return
		}
		require.True(t, bytes.HasPrefix(out, []byte(dst)))
		base := out[len(dst):]
		require.LessOrEqual(t, len(base), compressMax)
		packed, ok := k.compress(base)
		if !ok {
			return
		}
		again, err := k.appendDecompressed(nil, packed)
		require.NoError(t, err)
		require.True(t, bytes.Equal(base, again))
	})
}

// FuzzRecover opens a log whose updates are arbitrary, as if their writer had
// been mad: Open refuses it as corrupt, or each page can be read and written and
// the store opened again, or is corrupt for whoever asks for it.
//
// Four bytes are an update: kind and page, version, stamp, bytes of payload, which
// follow. The high bit of the third says that it is compressed.
func FuzzRecover(f *testing.F) {
	f.Add([]byte("\x01\x01\x01\x03abc" + "\x03\x02\x02\x02de" + "\x04\x02\x00\x05abcde" + "\x03\x03\x03\x01f"))
	f.Add([]byte("\x01\x01\x01\x01a" + "\x05\x02\x02\x00" + "\x01\x03\x03\x01b" + "\x11\x01\x81\x02xy"))
	f.Add([]byte("\x01\x01\x01\x06root\x01x" + "\x12\x05\x01\x06root\x02y" + "\x22\x09\x81\x0croot\x03xxxxxxx"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		fs := vfs.NewMem()
		l, err := log.Open(log.Options{Dir: "store", FS: fs, SegmentBytes: 16 << 10, BufferBytes: 2 << 10})
		require.NoError(t, err)
		_, err = l.Replay(log.Marks{}, nil)
		require.NoError(t, err)
		require.NoError(t, l.Start())
		for len(ops) >= 4 {
			n := min(int(ops[3]), len(ops)-4)
			u := log.Update{
				Kind: log.Kind(ops[0]&7%5 + 1), PID: PID(ops[0] >> 4), Version: uint64(ops[1]), Stamp: uint64(ops[2] & 0x7f),
				Compressed: ops[2]&0x80 != 0, Payload: ops[4 : 4+n],
			}
			r, err := l.Reserve(log.Stream(ops[0]>>3&1), log.UpdateSize(u.PID, u.Version, n))
			require.NoError(t, err)
			r.Append(u)
			r.Complete(u.Stamp)
			ops = ops[4+n:]
		}
		require.NoError(t, l.Close())
		c, err := Open(tiny(fs, stringPages{}))
		if err != nil {
			var corrupt *log.CorruptError
			require.ErrorAs(t, err, &corrupt)
			return
		}
		for pid := PID(1); pid < 16; pid++ {
			page, key, err := c.Get(pid)
			if err != nil {
				require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrGone), "%v", err)
				continue
			}
			next, err := c.Merge(pid, key, []byte("+"))
			require.NoError(t, err)
			require.Greater(t, next.version, key.version)
			now, _, err := c.Get(pid)
			require.NoError(t, err)
			require.Equal(t, string(page)+"+", string(now))
		}
		require.NoError(t, c.Close())
		c, err = Open(tiny(fs, stringPages{}))
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
}
