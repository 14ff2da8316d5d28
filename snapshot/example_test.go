package snapshot_test

import (
	"fmt"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

func Example() {
	fs := vfs.NewMem()
	_ = fs.MkdirAll("store")
	storeID := [16]byte{1}

	id := snapshot.Identity{StoreID: storeID, Incarnation: 1, Sequence: 1}
	base, err := snapshot.Create(fs, "store", id)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = base.Add(snapshot.Slot{PID: 1, State: snapshot.Used, Version: 2,
		Positions: []log.Position{{LSN: 4096, Size: 100}, {LSN: 8192, Size: 30}}})
	_ = base.Add(snapshot.Slot{PID: 2, State: snapshot.Free, Version: 5})
	if err := base.Commit(snapshot.Header{ReplayStart: log.Marks{12288, 8192}, MaxPID: 2}); err != nil {
		fmt.Println(err)
		return
	}

	// The second is a difference: it has what changed.
	id.Sequence, id.Parent = 2, base.File().Link
	difference, err := snapshot.Create(fs, "store", id)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = difference.Add(snapshot.Slot{PID: 2, State: snapshot.Used, Version: 6, Positions: []log.Position{{LSN: 16384, Size: 80}}})
	if err := difference.Commit(snapshot.Header{ReplayStart: log.Marks{20480, 8192}, MaxPID: 2}); err != nil {
		fmt.Println(err)
		return
	}

	h, found, err := snapshot.Load(fs, "store", storeID, nil, snapshot.Sink{
		Slot: func(file int, s snapshot.Slot) error {
			fmt.Println(file, s)
			return nil
		}})
	fmt.Println(h.ReplayStart[log.Fresh], found, err)
	// Output:
	// 0 1 used v2 stamp 0 flags 0x0 [0x1000+100 0x2000+30]
	// 0 2 free v5 stamp 0 flags 0x0 []
	// 1 2 used v6 stamp 0 flags 0x0 [0x4000+80]
	// 0x5000 true <nil>
}
