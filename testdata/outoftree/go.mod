module example.net/tftp

go 1.26

require (
	github.com/alecthomas/kong v1.17.0 // indirect
	github.com/florianl/go-nfqueue/v2 v2.1.0 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/mdlayher/netlink v1.9.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

require (
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/mdlayher/socket v0.5.1 // indirect
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sync v0.19.0 // indirect
)

require github.com/cthelperd/cthelperd v0.0.0

replace github.com/cthelperd/cthelperd => ../..
