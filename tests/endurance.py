"""What the house promises of long, shared and interrupted work, tried: `make endurance`, for minutes.

    kills      commands are killed at random points (SIGKILL, Ctrl-C); the next call goes on
    seeds      three processes add seeds to one record
    downloads  pairs of processes download one file
    orders     the same seed in other groups, threads and orders of dialogues
    scale      loading, an epoch, evaluation and report at 1, 10 and 100 times MELD's size
    places     no HOME, another locale, odd paths, links, a read-only folder, a full disk, a clock

The tests have short forms of them."""

import argparse
import sys

import interruptions
import orders
import places
import scale
import sharing

KILLS = {'run': 100}  # others: 20


def kills(arguments) -> list:
    wrong = []
    for name in arguments.only or interruptions.COMMANDS:
        number = arguments.number or KILLS.get(name, 20)
        wrong += interruptions.kill_often(name, number, arguments.seed)
    return wrong


PARTS = {
    'kills': kills,
    'seeds': lambda arguments: sharing.add_seeds(arguments.number or 20),
    'downloads': lambda arguments: sharing.download_pairs(arguments.number or 20),
    'orders': lambda arguments: orders.compare_orders(arguments.only),
    'scale': lambda arguments: scale.measure([int(n) for n in arguments.only] or (1, 10, 100)),
    'places': lambda arguments: places.try_places(arguments.only),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('part', nargs='?', choices=PARTS, help='default: all of them')
    parser.add_argument('only', nargs='*', help='commands, models, sizes or places; default: all')
    parser.add_argument('--number', type=int, help='kills, rounds or pairs')
    parser.add_argument('--seed', type=int, default=0, help='of the points of kills')
    arguments = parser.parse_args()
    wrong = []
    for part in [arguments.part] if arguments.part else PARTS:
        wrong += PARTS[part](arguments)
        sys.stdout.flush()
    print(f'{len(wrong)} wrong')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
