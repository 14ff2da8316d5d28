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

	w, err := snapshot.Create(fs, "store", snapshot.Identity{StoreID: storeID, Incarnation: 1, Sequence: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = w.Add(snapshot.Slot{PID: 1, State: snapshot.Used, Version: 2,
		Positions: []log.Position{{LSN: 4096, Size: 100}, {LSN: 8192, Size: 30}}})
	_ = w.Add(snapshot.Slot{PID: 2, State: snapshot.Free, Version: 5})
	if err := w.Commit(snapshot.Header{ReplayStart: log.Marks{12288, 8192}, MaxPID: 2}); err != nil {
		fmt.Println(err)
		return
	}

	h, found, err := snapshot.Load(fs, "store", storeID, nil, nil,
		func(s snapshot.Slot) error {
			fmt.Println(s)
			return nil
		})
	fmt.Println(h.ReplayStart[log.Fresh], found, err)
	// Output:
	// 1 used v2 stamp 0 flags 0x0 [0x1000+100 0x2000+30]
	// 2 free v5 stamp 0 flags 0x0 []
	// 0x3000 true <nil>
}
