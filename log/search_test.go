package log

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSearchWork looks for records in bytes that pass for the beginning of one everywhere.
// Each was summed up, and what a crash left of a segment of 64 MiB with such rows took
// hours to open. A record behind them is found all the same.
func TestSearchWork(t *testing.T) {
	const base = LSN(1 << 20)
	body := exampleBody(base, seedOf(1))
	pairs, dense := make([]byte, 256<<10), bytes.Repeat([]byte{1, 1, 1, 0}, 64<<10)
	for i := 0; i < len(pairs); i += 8 {
		binary.LittleEndian.PutUint32(pairs[i:], uint32(len(pairs)/4+i%1000))
		binary.LittleEndian.PutUint32(pairs[i+4:], uint32(i/8%5+1))
	}
	for name, rows := range map[string][]byte{"pairs": pairs, "dense": dense} {
		data := append(rows, body...)
		sealRecords(data[len(rows):], base+LSN(len(rows)), seedOf(1))
		x := newSearch(data, base, seedOf(1))
		_, at := x.next(0)
		require.Equal(t, len(rows), at, name)
		spent := searchWork*len(data) - x.budget
		require.Less(t, spent, 2*searchWork*len(data), name)
		require.Equal(t, name == "dense", spent > searchWork/2*len(data), name)
	}
}
