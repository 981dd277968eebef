package flows_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// Show the connections to port 22, and delete each.
func Example() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	for f, err := range table.List(&flows.Filter{Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Port(22)}}) {
		if err == nil {
			fmt.Println(f)
			err = table.Delete(f)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// Make a connection that no packet has made.
func ExampleTable_Create() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	f := flows.Flow{
		Transport: helpers.TCP,
		Orig:      helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.5:4000"), Dst: netip.MustParseAddrPort("198.51.100.9:80")},
		State:     flows.TCPSynSent,
		Timeout:   100, // seconds
	}
	if err := table.Create(&f); err != nil {
		log.Fatal(err)
	}
}

// Make a connection whose source is translated: answers go to the firewall's address.
func ExampleTable_Create_nat() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	client, server := netip.MustParseAddrPort("10.0.0.1:20"), netip.MustParseAddrPort("198.51.100.9:10")
	f := flows.Flow{
		Transport: helpers.TCP, State: flows.TCPSynSent, Timeout: 100,
		Orig:   helpers.Tuple{Src: client, Dst: server},
		Reply:  helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("203.0.113.1:20")},
		Status: flows.StatusSrcNAT,
	}
	if err := table.Create(&f); err != nil {
		log.Fatal(err)
	}
}

// Make a connection that another one has led to: rules see it as RELATED.
func ExampleTable_Create_master() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	client, server := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9")
	f := flows.Flow{
		Transport: helpers.TCP, State: flows.TCPEstablished, Timeout: 100,
		Orig:            helpers.Tuple{Src: netip.AddrPortFrom(client, 4001), Dst: netip.AddrPortFrom(server, 50000)},
		MasterTransport: helpers.TCP,
		Master:          helpers.Tuple{Src: netip.AddrPortFrom(client, 4000), Dst: netip.AddrPortFrom(server, 21)},
	}
	if err := table.Create(&f); err != nil {
		log.Fatal(err)
	}
}

// Find a connection by either of its tuples.
func ExampleTable_Get() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	tuple := helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.1:20"), Dst: netip.MustParseAddrPort("198.51.100.9:10")}
	f, err := table.Get(helpers.TCP, tuple, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.StateName(), "for", f.Timeout, "more seconds")
}

// Change one connection: what Change does not name stays.
func ExampleTable_Update() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	f := flows.Flow{
		Transport: helpers.TCP,
		Orig:      helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.1:20"), Dst: netip.MustParseAddrPort("198.51.100.9:10")},
	}
	err = table.Update(&f, &flows.Change{Timeout: new(uint32(1000)), Mark: 7, MarkMask: 0xff, Status: flows.StatusFixedTimeout})
	if err != nil {
		log.Fatal(err)
	}
}

// Delete one connection.
func ExampleTable_Delete() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	f := flows.Flow{
		Transport: helpers.TCP,
		Orig:      helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.1:20"), Dst: netip.MustParseAddrPort("198.51.100.9:10")},
	}
	if err := table.Delete(&f); err != nil {
		log.Fatal(err)
	}
}

// Delete all connections of a network, whatever the kernel can test of it.
func ExampleTable_DeleteAll() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	done, err := table.DeleteAll(&flows.Filter{Orig: flows.Ends{Src: netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("deleted", done.Entries)
}

// List all connections, as conntrack -L does.
func ExampleTable_List() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	for f, err := range table.List(nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(f)
	}
}

// List some, and see what the kernel tests of the filter and what is tested here.
func ExampleTable_List_filter() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	filter := flows.Filter{
		Transport: helpers.TCP, Mark: 7, MarkMask: 0xff, Where: func(f *flows.Flow) bool { return f.Orig.Src.Port() < 1024 },
	}
	fmt.Println("kernel:", table.Plan(&filter).Kernel, "here:", table.Plan(&filter).Here)
	for f, err := range table.List(&filter) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(f.Transport, f.Orig)
	}
}

// Empty the table.
func ExampleTable_Flush() {
	table, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	if err := table.Flush(); err != nil {
		log.Fatal(err)
	}
}

// Watch UDP until a connection ends: first what is there, then what happens. After an overrun there is another listing.
func ExampleWatch() {
	watcher, err := flows.Watch(flows.Watching{List: true, Filter: &flows.Filter{Transport: helpers.UDP}})
	if err != nil {
		log.Fatal(err)
	}
	defer watcher.Close()
	for e, err := range watcher.All(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		switch e.Kind {
		case flows.Overrun:
			fmt.Println(e.Lost, "events were lost")
		case flows.Synced:
			fmt.Println("these are all")
		default:
			fmt.Println(e.Kind, e.Flow.Orig)
		}
		if e.Kind == flows.Destroy {
			return
		}
	}
}
