package expect_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// Expect a connection from an FTP server to its client, from any port. The control connection is there and has a helper.
func ExampleTable_Create() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	x := expect.Expectation{
		Transport:       helpers.TCP,
		Tuple:           helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.9:0"), Dst: netip.MustParseAddrPort("192.0.2.1:5000")},
		MasterTransport: helpers.TCP,
		Master:          helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.1:4000"), Dst: netip.MustParseAddrPort("198.51.100.9:21")},
		Timeout:         60, // seconds
	}
	if err := table.Create(&x); err != nil {
		log.Fatal(err)
	}
}

// Make a control connection that has a helper, and let it lead to any number of others: what a helper in user space does.
func ExampleTable_Create_userspace() {
	connections, err := flows.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer connections.Close()
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	client, server := netip.MustParseAddrPort("192.0.2.7:4000"), netip.MustParseAddrPort("198.51.100.9:21")
	control := flows.Flow{
		Transport: helpers.TCP, Orig: helpers.Tuple{Src: client, Dst: server}, State: flows.TCPEstablished, Timeout: 600, Helper: "ftp",
	}
	x := expect.Expectation{
		Transport: helpers.TCP,
		Tuple:     helpers.Tuple{Src: netip.AddrPortFrom(client.Addr(), 0), Dst: netip.AddrPortFrom(server.Addr(), 50000)},
		Flags:     expect.FlagPermanent | expect.FlagUserspace, MasterTransport: control.Transport, Master: control.Orig,
	}
	if err := connections.Create(&control); err != nil {
		log.Fatal(err)
	}
	if err := table.Create(&x); err != nil {
		log.Fatal(err)
	}
}

// Find an expectation by its tuple.
func ExampleTable_Get() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	tuple := helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.9:0"), Dst: netip.MustParseAddrPort("192.0.2.1:5001")}
	x, err := table.Get(helpers.TCP, tuple, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("expected by", x.Master, "with helper", x.Helper)
}

// Give an expectation more time.
func ExampleTable_Change() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	err = table.Change(&expect.Expectation{
		Transport: helpers.TCP, Timeout: 1000,
		Tuple: helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.9:0"), Dst: netip.MustParseAddrPort("192.0.2.1:5001")},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Delete one expectation.
func ExampleTable_Delete() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	err = table.Delete(&expect.Expectation{
		Transport: helpers.TCP,
		Tuple:     helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.9:0"), Dst: netip.MustParseAddrPort("192.0.2.1:5001")},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// List all expectations, as conntrack -L expect does.
func ExampleTable_List() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	for x, err := range table.List() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(x)
	}
}

// Empty the table.
func ExampleTable_Flush() {
	table, err := expect.Open()
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	if err := table.Flush(); err != nil {
		log.Fatal(err)
	}
}

// Watch expectations until one is taken out: first what is there, then what happens.
func ExampleWatch() {
	watcher, err := expect.Watch(expect.Watching{List: true})
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
			fmt.Println(e.Kind, e.Expectation.Tuple)
		}
		if e.Kind == flows.Destroy {
			return
		}
	}
}

// Watch both tables, each in a goroutine of its own, until an expectation is taken out.
func ExampleWatch_connections() {
	expectations, err := expect.Watch(expect.Watching{})
	if err != nil {
		log.Fatal(err)
	}
	defer expectations.Close()
	connections, err := flows.Watch(flows.Watching{Once: true})
	if err != nil {
		log.Fatal(err)
	}
	defer connections.Close()
	fmt.Println("watching")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel() // ends the other one
		for e, err := range expectations.All(ctx) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println("expectation", e.Kind, e.Expectation.Tuple)
			if e.Kind == flows.Destroy {
				return
			}
		}
	}()
	for e, err := range connections.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("connection", e.Kind, e.Flow.Orig)
	}
}
