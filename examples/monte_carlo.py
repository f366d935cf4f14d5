"""Three simulations whose exact answers are known, so that one can see how near they come."""

import math
import random
import statistics

rng = random.Random(2025)


def estimate(samples):
    """Mean and the half-width of its 95 % confidence interval."""
    mean = statistics.fmean(samples)
    return mean, 1.96 * statistics.stdev(samples) / math.sqrt(len(samples))


# %% How likely do two of n people share a birthday?
def shared_birthday(people: int) -> bool:
    days = [rng.randrange(365) for _ in range(people)]
    return len(set(days)) < people


birthday = {n: estimate([float(shared_birthday(n)) for _ in range(4000)]) for n in (10, 23, 40)}
for n, (p, error) in birthday.items():
    print(f"{n} people: {p:.3f} ± {error:.3f}")
birthday


# %% What is a European call option worth? (antithetic pairs halve the noise)
def call_payoffs(spot, strike, rate, sigma, years, pairs):
    drift = (rate - sigma**2 / 2) * years
    discount = math.exp(-rate * years)
    for _ in range(pairs):
        z = rng.gauss(0, 1)
        up, down = (spot * math.exp(drift + sigma * math.sqrt(years) * s) for s in (z, -z))
        yield discount * (max(up - strike, 0) + max(down - strike, 0)) / 2


option = estimate(list(call_payoffs(spot=100, strike=105, rate=0.03, sigma=0.2, years=1, pairs=20_000)))
print(f"call option: {option[0]:.3f} ± {option[1]:.3f}")
option


# %% How likely does a gambler with 10 coins reach 25 before ruin, when each bet is won with probability 0.48?
class Gambler:
    def __init__(self, coins: int, goal: int, p: float) -> None:
        self.coins, self.goal, self.p = coins, goal, p
        self.bets = 0

    def play(self) -> bool:
        while 0 < self.coins < self.goal:
            self.coins += 1 if rng.random() < self.p else -1
            self.bets += 1
        return self.coins == self.goal


games = [Gambler(10, 25, 0.48) for _ in range(3000)]
won = estimate([float(game.play()) for game in games])
length = statistics.fmean(game.bets for game in games)
print(f"gambler: wins {won[0]:.3f} ± {won[1]:.3f}, after {length:.0f} bets on average")
{"won": won, "bets": length}
