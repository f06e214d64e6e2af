"""What the programs in perf/ share: a machine, file systems in memory, servers, clients, counters, reports.

One module for each noun:

    machine      running programs, what this machine is, processes and what they cost
    filesystem   ext4 and XFS in memory, or a plain directory
    workload     mailboxes, names, sizes of messages
    servers      Posthaste and its rivals, each in a directory of its own
    clients      who delivers: posthaste-load, or smtp-source
    raw          the program without a server
    rounds       one delivery: start, deliver, count, verify
    instructions the server under callgrind
    scanner      the DATA scanner against memmem
    packages     rivals from Debian
    report       tables, records
    chart        a table as SVG
"""
