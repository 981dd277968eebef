// Package e2e holds end-to-end tests only: real servers, clients and telephones in network namespaces, with a firewall between
// them that lets through control connections and what is established or related, and cthelperd there or not. They need
// root; go test -short leaves them out. scripts/install installs the programs.
package e2e
